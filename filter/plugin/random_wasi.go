//go:build wasip1

package main

import "strconv"

// readRandom asks the host's random_get, from WASI, which is what a Sec-WebSocket-Key that cannot be guessed takes
// (RFC 6455 10.3). crypto/rand would do the same with a hundred times the code.
func readRandom(random *[16]byte) error {
	if errno := randomGet(&random[0], uint32(len(random))); errno != 0 {
		return failure{"call random_get", errno}
	}
	return nil
}

//go:wasmimport wasi_snapshot_preview1 random_get
//go:noescape
func randomGet(random *byte, size uint32) wasiError

// wasiError is an errno of WASI.
type wasiError uint32

func (e wasiError) Error() string { return "errno " + strconv.Itoa(int(e)) }
