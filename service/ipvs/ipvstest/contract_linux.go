package ipvstest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/ipvs"
)

// The objects of the contract.
var (
	tcp4 = ipvs.Key{Family: service.IPv4, Protocol: service.TCP, Addr: netip.MustParseAddrPort("10.96.0.1:80")}
	udp6 = ipvs.Key{Family: service.IPv6, Protocol: service.UDP, Addr: netip.MustParseAddrPort("[fd00:96::1]:53")}
	mark = ipvs.Key{Family: service.IPv4, Mark: 0xaa400001}

	round = ipvs.Settings{Scheduler: "rr"}
	stay  = ipvs.Settings{Scheduler: "wrr", Flags: ipvs.Persistent, Timeout: 100}
)

func add(k ipvs.Key, s ipvs.Settings) ipvs.Change {
	return ipvs.Change{Verb: ipvs.AddServer, Key: k, Settings: s}
}

func set(k ipvs.Key, s ipvs.Settings) ipvs.Change {
	return ipvs.Change{Verb: ipvs.SetServer, Key: k, Settings: s}
}

func del(k ipvs.Key) ipvs.Change { return ipvs.Change{Verb: ipvs.DeleteServer, Key: k} }

func real(v ipvs.Verb, k ipvs.Key, addr string, weight int32) ipvs.Change {
	return ipvs.Change{Verb: v, Key: k, Real: netip.MustParseAddrPort(addr), Weight: weight}
}

// fact is a change and the kernel's answer, measured on Linux 6.1.
type fact struct {
	change ipvs.Change
	errno  syscall.Errno
}

func facts() []fact {
	return []fact{
		{del(tcp4), syscall.ESRCH},
		{set(tcp4, round), syscall.ESRCH},
		{real(ipvs.AddReal, tcp4, "10.244.0.1:80", 1), syscall.ESRCH},
		{add(tcp4, round), 0},
		{add(tcp4, round), syscall.EEXIST},
		{add(tcp4, stay), syscall.EEXIST},
		{set(tcp4, ipvs.Settings{Scheduler: "nonsense"}), syscall.ENOENT},
		{add(udp6, stay), 0},
		{add(mark, ipvs.Settings{Scheduler: "sh", Flags: ipvs.Sched2}), 0},
		{add(ipvs.Key{Family: service.IPv6, Mark: mark.Mark}, round), 0}, // a mark is one of its family
		{real(ipvs.SetReal, tcp4, "10.244.0.1:80", 1), syscall.ENOENT},
		{real(ipvs.DeleteReal, tcp4, "10.244.0.1:80", 0), syscall.ENOENT},
		{real(ipvs.AddReal, tcp4, "10.244.0.1:80", 1), 0},
		{real(ipvs.AddReal, tcp4, "10.244.0.1:80", 1), syscall.EEXIST},
		{real(ipvs.AddReal, tcp4, "10.244.0.1:81", 0), 0},
		{real(ipvs.SetReal, tcp4, "10.244.0.1:80", 0), 0},
		{real(ipvs.AddReal, tcp4, "10.244.0.2:80", -1), syscall.ERANGE},
		{real(ipvs.AddReal, tcp4, "224.0.0.1:80", 1), syscall.EINVAL},
		{real(ipvs.AddReal, tcp4, "255.255.255.255:80", 1), syscall.EINVAL},
		{real(ipvs.AddReal, tcp4, "[fd00:244::1]:80", 1), syscall.EINVAL},
		{real(ipvs.AddReal, udp6, "[fd00:244::1]:53", 1), 0},
		{real(ipvs.AddReal, udp6, "[ff02::1]:53", 1), syscall.EINVAL},
		{real(ipvs.AddReal, udp6, "[fe80::1]:53", 1), syscall.EINVAL},
		{real(ipvs.AddReal, mark, "10.244.0.1:80", 1), 0},
		{real(ipvs.AddReal, mark, "10.244.0.1:81", 1), 0}, // one address, two ports
		{real(ipvs.DeleteReal, mark, "10.244.0.1:80", 0), 0},
		{set(tcp4, ipvs.Settings{Scheduler: "mh", Flags: ipvs.Persistent | ipvs.Sched2, Timeout: 10800}), 0},
		{add(ipvs.Key{Family: service.IPv4, Protocol: service.SCTP, Addr: tcp4.Addr}, round), 0},
		{del(ipvs.Key{Family: service.IPv4, Protocol: service.SCTP, Addr: tcp4.Addr}), 0},
	}
}

// Contract proves that an IPVS without virtual servers is one: the answers to changes, what is there afterwards, and that the three ways to read it agree. open is called for each part.
func Contract(t *testing.T, open func(testing.TB) ipvs.IPVS) {
	t.Run("facts", func(t *testing.T) { contractFacts(t, open(t)) })
	t.Run("schedulers", func(t *testing.T) { contractSchedulers(t, open(t)) })
	t.Run("many", func(t *testing.T) { contractMany(t, open(t)) })
	t.Run("context", func(t *testing.T) { contractContext(t, open(t)) })
}

func contractFacts(t *testing.T, k ipvs.IPVS) {
	var changes []ipvs.Change
	for _, f := range facts() {
		changes = append(changes, f.change)
	}
	errs := k.Write(t.Context(), changes)
	for i, f := range facts() {
		got := errs[i]
		e, ok := errors.AsType[*ipvs.Error](got)
		switch {
		case f.errno == 0 && got != nil:
			t.Errorf("%s: %v", f.change, got)
		case f.errno != 0 && (!ok || e.Errno != f.errno):
			t.Errorf("%s: %v; want %v", f.change, got, f.errno)
		case f.errno == syscall.EEXIST && !errors.Is(got, fs.ErrExist), f.errno == syscall.ESRCH && !errors.Is(got, fs.ErrNotExist):
			t.Errorf("%s: %v does not match", f.change, got)
		}
	}
	want := `-A -t 10.96.0.1:80 -s mh -p 10800 -b flag-2
-a -t 10.96.0.1:80 -r 10.244.0.1:80 -m -w 0
-a -t 10.96.0.1:80 -r 10.244.0.1:81 -m -w 0
-A -f 2856321025 -s sh -b flag-2
-a -f 2856321025 -r 10.244.0.1:81 -m -w 1
-A -u [fd00:96::1]:53 -s wrr -p 100
-a -u [fd00:96::1]:53 -r [fd00:244::1]:53 -m -w 1
-A -f 2856321025 -6 -s rr
`
	if diff := cmp.Diff(want, Dump(t.Context(), k)); diff != "" {
		t.Errorf("it has (-want +got):\n%s", diff)
	}
	for _, key := range []ipvs.Key{tcp4, udp6, mark} {
		all, err := k.Servers(t.Context())
		i := slices.IndexFunc(all, func(s ipvs.Server) bool { return s.Key == key })
		reals, err2 := k.Reals(t.Context(), key)
		if err != nil || err2 != nil || i < 0 || !slices.Equal(reals, all[i].Reals) {
			t.Errorf("%s: reals %v, %v, %v", key, reals, err, err2)
		}
	}
	if _, err := k.Reals(t.Context(), ipvs.Key{Family: service.IPv4, Mark: 7}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the real servers of nobody: %v", err)
	}
}

func contractSchedulers(t *testing.T, k ipvs.IPVS) {
	changes := []ipvs.Change{add(tcp4, round)}
	for _, name := range ipvs.Schedulers() {
		changes = append(changes, set(tcp4, ipvs.Settings{Scheduler: name}))
	}
	for i, err := range k.Write(t.Context(), changes) {
		lacks := changes[i].Settings.Scheduler == "twos" // Linux 6.3
		if lacks != (err != nil) || lacks && (!strings.Contains(err.Error(), "ip_vs_twos (CONFIG_IP_VS_TWOS)")) {
			t.Errorf("%s: %v", changes[i], err)
		}
	}
}

// contractMany is more than a system call takes, with failures in between.
func contractMany(t *testing.T, k ipvs.IPVS) {
	const servers, reals = 300, 5
	var changes []ipvs.Change
	failures := 0
	for i := range servers {
		key := ipvs.Key{Family: service.IPv4, Protocol: service.TCP, Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), 80)}
		changes = append(changes, add(key, round))
		for j := range reals {
			changes = append(changes, real(ipvs.AddReal, key, fmt.Sprintf("10.244.%d.%d:80", i%250, j+1), 1))
		}
		if i%3 == 0 {
			changes = append(changes, add(key, round))
			failures++
		}
	}
	failed := 0
	for i, err := range k.Write(t.Context(), changes) {
		if err != nil {
			failed++
			if e, ok := errors.AsType[*ipvs.Error](err); !ok || e.Change != changes[i] || e.Errno != syscall.EEXIST {
				t.Fatalf("%s: %v", changes[i], err)
			}
		}
	}
	all, err := k.Servers(t.Context())
	if err != nil || failed != failures || len(all) != servers {
		t.Fatalf("%d failed, want %d; %d servers, want %d; %v", failed, failures, len(all), servers, err)
	}
	seen := 0
	for _, s := range all {
		if len(s.Reals) != reals {
			t.Errorf("%s has %d real servers", s.Key, len(s.Reals))
		}
	}
	if err := k.Walk(t.Context(), func(ipvs.Key) {}, func(ipvs.Key, ipvs.Real) { seen++ }); err != nil || seen == 0 || seen > servers*reals {
		t.Errorf("the walk shows %d real servers, %v", seen, err)
	}
}

func contractContext(t *testing.T, k ipvs.IPVS) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := k.Servers(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("servers: %v", err)
	}
	if errs := k.Write(ctx, []ipvs.Change{add(tcp4, round)}); len(errs) != 1 || !errors.Is(errs[0], context.Canceled) {
		t.Errorf("write: %v", errs)
	}
	if k.Release() == "" {
		t.Error("no release")
	}
	if got := Dump(t.Context(), k); got != "" {
		t.Errorf("it has\n%s", got)
	}
}

// Dump returns the virtual servers as the arguments of ipvsadm that would make them, sorted; an error's text if they cannot be read.
func Dump(ctx context.Context, k ipvs.IPVS) string {
	all, err := k.Servers(ctx)
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	for _, s := range all {
		fmt.Fprintln(&b, add(s.Key, s.Settings))
		for _, r := range s.Reals {
			fmt.Fprintln(&b, ipvs.Change{Verb: ipvs.AddReal, Key: s.Key, Real: r.Addr, Weight: r.Weight})
		}
	}
	return b.String()
}
