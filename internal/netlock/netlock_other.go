//go:build !linux

package netlock

// Take does nothing: there are no network namespaces here.
func Take(string) (unlock func() error, err error) { return func() error { return nil }, nil }
