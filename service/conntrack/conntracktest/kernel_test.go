package conntracktest_test

import (
	"net/netip"
	"testing"

	"github.com/podnet/podnet/service/conntrack"
	"github.com/podnet/podnet/service/conntrack/conntracktest"
)

func TestContract(t *testing.T) {
	k := &conntracktest.Kernel{}
	k.SetLocal(netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"))
	conntracktest.Contract(t, conntracktest.Harness{Kernel: k, Track: func(_ testing.TB, flows ...conntrack.Flow) { k.Track(flows...) }})
}
