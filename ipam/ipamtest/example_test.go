package ipamtest_test

import (
	"fmt"
	"testing"

	"github.com/podnet/podnet/ipam"
	"github.com/podnet/podnet/ipam/ipamtest"
)

func TestMemoryStore(t *testing.T) {
	ipamtest.TestStore(t, func(*testing.T) (ipam.Store, func() ipam.Store) {
		s := ipam.NewMemoryStore()
		return s, func() ipam.Store { return s }
	})
}

// The contract is run from a test of the store.
func ExampleTestStore() {
	testMyStore := func(t *testing.T) {
		ipamtest.TestStore(t, func(t *testing.T) (ipam.Store, func() ipam.Store) {
			s := ipam.NewMemoryStore()
			return s, func() ipam.Store { return s }
		})
	}
	fmt.Println(testing.RunTests(func(string, string) (bool, error) { return true, nil },
		[]testing.InternalTest{{Name: "TestMyStore", F: testMyStore}}))
	// Output: true
}
