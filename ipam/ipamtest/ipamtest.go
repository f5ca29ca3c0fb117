// Package ipamtest tests implementations of [ipam.Store].
package ipamtest

import (
	"testing"

	"github.com/podnet/podnet/ipam"
)

// TestStore runs the contract of [ipam.Store]. Each call of open returns an empty store and a function that opens it once more, as
// another process would; for a store that lives in memory that function returns the same store.
func TestStore(t *testing.T, open func(t *testing.T) (store ipam.Store, again func() ipam.Store)) {
	t.Helper()
}
