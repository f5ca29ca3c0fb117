package rtnltest

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/podnet/podnet/rtnl"
)

// contractErrors: what an error of Write says, and what each verb refuses.
func contractErrors(t *testing.T, h Harness) {
	n := h.NewNamespace(t)
	if errs := n.Write(t.Context(), nil); errs != nil {
		t.Errorf("an empty plan gives %v, want nil", errs)
	}
	plan, err := ParsePlan("link del nope\naddr add 10.0.0.1/24 dev lo\naddr add 10.0.0.1/24 dev lo")
	if err != nil {
		t.Fatal(err)
	}
	errs := n.Write(t.Context(), plan)
	if len(errs) != 3 || errs[1] != nil {
		t.Fatalf("have %v, want an error for the first and the third change", errs)
	}
	for i, want := range map[int]struct {
		op     string
		errno  syscall.Errno
		target error
	}{0: {"link del", syscall.ENODEV, fs.ErrNotExist}, 2: {"addr add", syscall.EEXIST, fs.ErrExist}} {
		e, ok := errors.AsType[*rtnl.Error](errs[i])
		if !ok || e.Op != want.op || e.Errno != want.errno || !errors.Is(errs[i], want.errno) || !errors.Is(errs[i], want.target) {
			t.Errorf("%s: have %#v, want %+v", plan[i], errs[i], want)
		}
		if !strings.HasPrefix(errs[i].Error(), plan[i].String()+": ") {
			t.Errorf("error %q does not begin with the change %q", errs[i], plan[i])
		}
	}
	for _, o := range []rtnl.Object{
		rtnl.Link{Name: "x", Kind: rtnl.KindBridge}, rtnl.Addr{}, rtnl.Route{}, rtnl.Neigh{}, rtnl.FDB{}, rtnl.Nexthop{}, rtnl.Sysctl{Name: "net/ipv4/ip_forward"}, nil,
	} {
		for verb := rtnl.Add; verb <= rtnl.Delete+1; verb++ {
			if knows(verb, o) {
				continue
			}
			errs := n.Write(t.Context(), rtnl.Plan{{Verb: verb, Object: o}})
			if len(errs) != 1 || !errors.Is(errs[0], syscall.EOPNOTSUPP) {
				t.Errorf("%s of a %T: have %v, want EOPNOTSUPP", verb, o, errs)
			}
		}
	}
}

// knows is the table at rtnl.Verb.
func knows(v rtnl.Verb, o rtnl.Object) bool {
	switch o.(type) {
	case rtnl.Link:
		return v == rtnl.Add || v == rtnl.Set || v == rtnl.Delete
	case rtnl.Addr:
		return v == rtnl.Add || v == rtnl.Delete
	case rtnl.Sysctl:
		return v == rtnl.Set
	case nil:
		return false
	}
	return v == rtnl.Add || v == rtnl.Replace || v == rtnl.Delete
}

// contractContext: a context that has ended stops every call before it does anything.
func contractContext(t *testing.T, h Harness) {
	n := h.NewNamespace(t)
	ended, end := context.WithCancel(t.Context())
	end()
	errs := n.Write(ended, rtnl.Plan{{Verb: rtnl.Add, Object: rtnl.Link{Name: "br", Kind: rtnl.KindBridge}}})
	if len(errs) != 1 || !errors.Is(errs[0], context.Canceled) {
		t.Errorf("Write: have %v, want context.Canceled", errs)
	}
	if _, err := n.Link(t.Context(), "br"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the link was made all the same: %v", err)
	}
	for name, call := range map[string]func() error{
		"Links":    func() error { _, err := n.Links(ended); return err },
		"Link":     func() error { _, err := n.Link(ended, "lo"); return err },
		"Addrs":    func() error { _, err := n.Addrs(ended, ""); return err },
		"Routes":   func() error { _, err := n.Routes(ended, rtnl.RouteFilter{}); return err },
		"Neighs":   func() error { _, err := n.Neighs(ended, "lo"); return err },
		"FDB":      func() error { _, err := n.FDB(ended, "lo"); return err },
		"Nexthops": func() error { _, err := n.Nexthops(ended, 0); return err },
		"Sysctl":   func() error { _, err := n.Sysctl(ended, "net/ipv4/ip_forward"); return err },
		"Watch":    func() error { return n.Watch(ended, rtnl.Groups{Links: true}, func(rtnl.Event) {}) },
	} {
		if err := call(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: have %v, want context.Canceled", name, err)
		}
	}
}

// contractWatch: which notifications come for which writes, and that Watch ends with its context.
func contractWatch(t *testing.T, h Harness) {
	n := h.NewNamespace(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	events := make(chan rtnl.Event, 1<<10)
	ended := make(chan error, 1)
	go func() {
		ended <- n.Watch(ctx, rtnl.Groups{Links: true, Addrs: true, Routes: true, Neighs: true}, func(e rtnl.Event) { events <- e })
	}()
	subscribe(t, n, events)
	for _, tt := range []struct {
		change string
		want   []rtnl.Event // in any order, among others
	}{
		{"link add a up type veth peer b", []rtnl.Event{{Object: "link", Link: "a"}, {Object: "link", Link: "b"}}},
		{"addr add 10.0.0.1/24 dev a", []rtnl.Event{{Object: "addr", Link: "a"}}},
		{"link set b up", []rtnl.Event{{Object: "link", Link: "b"}}},
		{"route add 10.1.0.0/24 via 10.0.0.2 dev a proto 112", []rtnl.Event{{Object: "route", Link: "a", Protocol: 112}}},
		{"route del 10.1.0.0/24", []rtnl.Event{{Object: "route", Link: "a", Protocol: 112, Deleted: true}}},
		{"route add blackhole 10.9.0.0/24 proto 112", []rtnl.Event{{Object: "route", Protocol: 112}}},
		{"nexthop add id 5 via 10.0.0.3 dev a proto 112", []rtnl.Event{{Object: "nexthop", Link: "a", Protocol: 112}}},
		{"nexthop del id 5", []rtnl.Event{{Object: "nexthop", Link: "a", Protocol: 112, Deleted: true}}},
		{"neigh add 10.0.0.2 lladdr 02:00:00:00:00:02 dev a nud permanent", []rtnl.Event{{Object: "neigh", Link: "a"}}},
		{"neigh del 10.0.0.2 dev a", []rtnl.Event{{Object: "neigh", Link: "a", Deleted: true}}},
		{"link add v up type vxlan id 7 local 10.0.0.1", []rtnl.Event{{Object: "link", Link: "v"}}},
		{"fdb add 02:00:00:00:00:03 dev v dst 10.0.0.3 self permanent", []rtnl.Event{{Object: "neigh", Link: "v"}}},
		{"fdb del 02:00:00:00:00:03 dev v dst 10.0.0.3 self permanent", []rtnl.Event{{Object: "neigh", Link: "v", Deleted: true}}},
		{"addr del 10.0.0.1/24 dev a", []rtnl.Event{{Object: "addr", Link: "a", Deleted: true}}},
		{"link add br type bridge", []rtnl.Event{{Object: "link", Link: "br"}}},
		{"link set a master br", []rtnl.Event{{Object: "link", Link: "a"}}},
		// A port that is freed is told of with RTM_DELLINK of family AF_BRIDGE, which is not the end of the device.
		{"link del br", []rtnl.Event{{Object: "link", Link: "a"}, {Object: "link", Link: "br", Deleted: true}}},
		{"link del a", []rtnl.Event{{Object: "link", Link: "a", Deleted: true}, {Object: "link", Link: "b", Deleted: true}}},
	} {
		plan, err := ParsePlan(tt.change)
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range n.Write(t.Context(), plan) {
			if err != nil {
				t.Fatal(err)
			}
		}
		expectEvents(t, tt.change, events, tt.want)
	}
	stop()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Watch ended with %v, want context.Canceled", err)
		}
	case <-time.After(patience):
		t.Error("Watch does not end with its context")
	}
}

// subscribe waits until Watch has subscribed: writes before that are not told.
func subscribe(t *testing.T, n Namespace, events <-chan rtnl.Event) {
	t.Helper()
	probe, err := ParsePlan("addr add 10.255.255.1/32 dev lo\naddr del 10.255.255.1/32 dev lo")
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if errs := n.Write(t.Context(), probe); errs != nil {
			t.Fatal(errs)
		}
		select {
		case <-events:
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
	t.Fatal("no event comes")
}

func expectEvents(t *testing.T, change string, events <-chan rtnl.Event, want []rtnl.Event) {
	t.Helper()
	timeout := time.After(patience)
	var seen []rtnl.Event
	want = slices.Clone(want)
	for len(want) > 0 {
		select {
		case e := <-events:
			seen = append(seen, e)
			if i := slices.Index(want, e); i >= 0 {
				want = slices.Delete(want, i, i+1)
			}
		case <-timeout:
			t.Fatalf("%s: no event %+v; came %+v", change, want, seen)
		}
	}
}
