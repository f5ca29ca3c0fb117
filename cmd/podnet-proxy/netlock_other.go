//go:build !linux

package main

// lockNetwork: there are no network namespaces here.
func lockNetwork() (unlock func() error, err error) { return func() error { return nil }, nil }
