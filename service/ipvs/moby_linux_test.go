package ipvs_test

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	moby "github.com/moby/ipvs"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/ipvs"
	"github.com/podnet/podnet/service/ipvs/ipvstest"
	"github.com/podnet/podnet/test/vm/vmtest"
)

// TestWitness: github.com/moby/ipvs, which knows nothing of this package, reads what it wrote, and writes what it reads.
func TestWitness(t *testing.T) {
	vmtest.RequireIPVS(t)
	ns := rtnltest.NewNetns(t)
	ours, err := ipvs.OpenConn(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	theirs, err := moby.New(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	var changes []ipvs.Change
	for _, s := range strings.Fields("10.96.0.1:80/6 10.96.0.1:53/17 [fd00::1]:80/6 [fd00::1]:9/132") {
		addr, protocol, _ := strings.Cut(s, "/")
		k := keyOf(addr, protocol)
		changes = append(changes, ipvs.Change{Verb: ipvs.AddServer, Key: k, Settings: ipvs.Settings{Scheduler: "wrr", Flags: ipvs.Persistent, Timeout: 77}})
		real := "10.244.0.1:8080"
		if k.Family == service.IPv6 {
			real = "[fd00:244::1]:8080"
		}
		changes = append(changes, ipvs.Change{Verb: ipvs.AddReal, Key: k, Real: keyOf(real, "6").Addr, Weight: 3})
	}
	if errs := ours.Write(t.Context(), changes); errs != nil {
		t.Fatal(errs)
	}
	services, err := theirs.GetServices()
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, s := range services {
		reals, err := theirs.GetDestinations(s)
		if err != nil || len(reals) != 1 {
			t.Fatal(reals, err)
		}
		got = append(got, fmt.Sprintln(net.JoinHostPort(s.Address.String(), fmt.Sprint(s.Port)), s.Protocol, s.SchedName, s.Flags&^2, s.Timeout, s.Netmask, reals[0].Address, reals[0].Port, reals[0].Weight, reals[0].ConnectionFlags&7))
	}
	for i := 0; i < len(changes); i += 2 {
		k, r := changes[i].Key, changes[i+1].Real
		mask := map[service.Family]uint32{service.IPv4: 0xffffffff, service.IPv6: 128}[k.Family]
		want = append(want, fmt.Sprintln(k.Addr, uint8(k.Protocol), "wrr", 1, 77, mask, r.Addr(), r.Port(), 3, 0))
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("it reads (-want +got):\n%s", diff)
	}

	if err := theirs.Flush(); err != nil {
		t.Fatal(err)
	}
	service4 := &moby.Service{AddressFamily: syscall.AF_INET, Protocol: 6, Address: net.IPv4(10, 96, 0, 2), Port: 443, SchedName: "mh", Flags: 1 | 0x10, Timeout: 60, Netmask: 0xffffffff}
	mark := &moby.Service{AddressFamily: syscall.AF_INET6, FWMark: 9, SchedName: "rr", Netmask: 128}
	for _, s := range []*moby.Service{service4, mark} {
		if err := theirs.NewService(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := theirs.NewDestination(service4, &moby.Destination{AddressFamily: syscall.AF_INET, Address: net.IPv4(10, 244, 0, 9), Port: 8443, Weight: 5}); err != nil {
		t.Fatal(err)
	}
	wantDump := "-A -t 10.96.0.2:443 -s mh -p 60 -b flag-2\n-a -t 10.96.0.2:443 -r 10.244.0.9:8443 -m -w 5\n-A -f 9 -6 -s rr\n"
	if diff := cmp.Diff(wantDump, ipvstest.Dump(t.Context(), ours)); diff != "" {
		t.Errorf("it wrote (-want +got):\n%s", diff)
	}
}

func keyOf(addr, protocol string) ipvs.Key {
	a := netip.MustParseAddrPort(addr)
	return ipvs.Key{Family: service.FamilyOf(a.Addr()), Protocol: map[string]service.Protocol{"6": service.TCP, "17": service.UDP, "132": service.SCTP}[protocol], Addr: a}
}
