package rtnltest_test

import (
	"testing"

	"github.com/podnet/podnet/rtnl/rtnltest"
)

// realKernel is the kernel that the test runs on, under the contract.
type realKernel struct{}

func (realKernel) NewNamespace(t testing.TB) rtnltest.Namespace {
	ns := rtnltest.NewNetns(t)
	c := ns.Conn(t)
	return rtnltest.Namespace{Conn: c, Path: ns.Path(), Remove: func() {
		if err := c.Close(); err != nil { // a socket keeps its namespace alive
			t.Error(err)
		}
		if err := ns.Remove(); err != nil {
			t.Error(err)
		}
	}}
}

func TestKernelContract(t *testing.T) {
	rtnltest.RequireKernel(t, "the contract with the kernel")
	rtnltest.Contract(t, realKernel{})
}
