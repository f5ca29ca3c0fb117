package rtnltest_test

import (
	"fmt"
	"testing"

	"github.com/podnet/podnet/rtnl/rtnltest"
)

// fakeHarness puts the fake kernel under the contract.
type fakeHarness struct {
	k    *rtnltest.Kernel
	made int
}

func (h *fakeHarness) NewNamespace(t testing.TB) rtnltest.Namespace {
	h.made++
	name := fmt.Sprintf("ns%d", h.made)
	t.Cleanup(func() { h.k.RemoveNetns(name) })
	return rtnltest.Namespace{Conn: h.k.Netns(name), Path: "/run/netns/" + name, Remove: func() { h.k.RemoveNetns(name) }}
}

func TestFakeContract(t *testing.T) {
	rtnltest.Contract(t, &fakeHarness{k: rtnltest.NewKernel()})
}
