//go:build !race

package hostsim

const raceDetector = false
