//go:build race

package hostsim

const raceDetector = true
