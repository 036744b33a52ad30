//go:build !wasip1

package main

import "crypto/rand"

func readRandom(random *[16]byte) error {
	_, err := rand.Read(random[:])
	return err
}
