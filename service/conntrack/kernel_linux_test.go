package conntrack_test

import (
	"testing"

	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/service/conntrack"
	"github.com/podnet/podnet/service/conntrack/conntracktest"
)

func TestKernelContract(t *testing.T) {
	ns := rtnltest.NewNetns(t)
	conntracktest.Contract(t, conntracktest.Harness{
		Kernel: &conntrack.Conn{Netns: ns.Path()},
		Track:  func(t testing.TB, flows ...conntrack.Flow) { conntrack.Track(t, ns.Path(), flows...) },
	})
}
