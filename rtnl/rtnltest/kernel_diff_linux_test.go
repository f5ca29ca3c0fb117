package rtnltest_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

var (
	diffSeeds = flag.Uint64("diff.seeds", 3, "random runs of TestFakeLikeKernel")
	diffFirst = flag.Uint64("diff.first", 1, "first seed of TestFakeLikeKernel")
	diffSteps = flag.Int("diff.steps", 100, "changes in each run of TestFakeLikeKernel")
)

// TestFakeLikeKernel makes the same random changes to the fake and to the real kernel. Every answer, and the state after every change, has
// to be the same.
func TestFakeLikeKernel(t *testing.T) {
	rtnltest.RequireKernel(t, "comparing the fake with the kernel")
	for i := range *diffSeeds {
		seed := *diffFirst + i
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			real := realKernel{}
			fake := &fakeHarness{k: rtnltest.NewKernel()}
			p := pair{t: t, pick: picker{rand.New(rand.NewPCG(seed, 0))}}
			for _, name := range []string{"one", "two"} {
				p.sides = append(p.sides, side{name, real.NewNamespace(t), fake.NewNamespace(t)})
			}
			p.run(*diffSteps)
		})
	}
}

// side is a namespace of the real kernel and one of the fake that are to be alike.
type side struct {
	name       string
	real, fake rtnltest.Namespace
}

type pair struct {
	t       *testing.T
	pick    picker
	sides   []side
	history []string
}

func (p *pair) run(steps int) {
	for _, s := range p.sides {
		for _, conf := range []string{"all", "default"} { // no addresses that become usable some time later
			for _, n := range []rtnltest.Namespace{s.real, s.fake} {
				o := rtnl.Sysctl{Name: "net/ipv6/conf/" + conf + "/accept_dad", Value: "0"}
				if errs := n.Write(p.t.Context(), rtnl.Plan{{Verb: rtnl.Set, Object: o}}); errs != nil {
					p.t.Fatal(errs)
				}
			}
		}
	}
	for range steps {
		at := 0
		if p.pick.IntN(8) == 0 {
			at = 1
		}
		p.step(p.sides[at], p.sides[1-at], p.pick.change())
		if p.t.Failed() {
			return
		}
	}
}

// step makes one change on both kernels.
func (p *pair) step(s, other side, c rtnl.Change) {
	realChange, fakeChange := c, c
	if l, ok := c.Object.(rtnl.Link); ok && l.Veth.PeerNetns != "" {
		l.Veth.PeerNetns = other.real.Path
		realChange.Object = l
		l.Veth.PeerNetns = other.fake.Path
		fakeChange.Object = l
	}
	fakeErr := errors.Join(s.fake.Write(p.t.Context(), rtnl.Plan{fakeChange})...)
	var refused *rtnl.Error
	if errors.As(fakeErr, &refused) && strings.Contains(refused.Detail, "does not model") {
		return
	}
	realErr := errors.Join(s.real.Write(p.t.Context(), rtnl.Plan{realChange})...)
	p.history = append(p.history, fmt.Sprintf("%s: %s => %s", s.name, c, answer(realErr)))
	if answer(fakeErr) != answer(realErr) {
		p.fail("%s: %s\nkernel: %v\nfake:   %v", s.name, c, realErr, fakeErr)
		return
	}
	for _, s := range p.sides {
		p.compare(s)
	}
	p.compareRouteTo(s, p.pick.target())
}

// compareRouteTo waits too: even an IPv6 address without duplicate detection gets its local route from a work queue.
func (p *pair) compareRouteTo(s side, dst netip.Addr) {
	fakeRoute, fakeErr := s.fake.RouteTo(p.t.Context(), dst)
	var refused *rtnl.Error
	if errors.As(fakeErr, &refused) && strings.Contains(refused.Detail, "does not model") {
		return
	}
	p.await(func() string {
		realRoute, realErr := s.real.RouteTo(p.t.Context(), dst)
		for _, r := range []*rtnl.Route{&realRoute, &fakeRoute} {
			if r.Src.IsLinkLocalUnicast() || r.Src.IsLoopback() { // link-local addresses come some time after the carrier
				r.Src = netip.Addr{}
			}
		}
		if answer(realErr) == answer(fakeErr) && realRoute == fakeRoute {
			return ""
		}
		return fmt.Sprintf("%s: route to %s\nkernel: %+v %v\nfake:   %+v %v", s.name, dst, realRoute, realErr, fakeRoute, fakeErr)
	})
}

// compare waits until both show the same: the kernel tells devices of a lost or new carrier some time later.
func (p *pair) compare(s side) {
	if p.t.Failed() {
		return
	}
	p.await(func() string {
		want, got := p.dump(s.real), p.dump(s.fake)
		if want == got {
			return ""
		}
		return fmt.Sprintf("%s: state differs (-kernel +fake):\n%s", s.name, cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")))
	})
}

// await fails the test if there is still a difference after some seconds.
func (p *pair) await(difference func() string) {
	deadline := time.Now().Add(20 * time.Second)
	for {
		d := difference()
		if d == "" {
			return
		}
		if time.Now().After(deadline) {
			p.fail("%s", d)
			return
		}
		<-time.After(5 * time.Millisecond)
	}
}

func (p *pair) dump(n rtnltest.Namespace) string {
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	text, err := rtnltest.Dump(ctx, n)
	if err != nil {
		p.t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if words[0] == "neigh" && words[len(words)-1] != "permanent" { // learned: the kernel has traffic of its own
			continue
		}
		for i := range words {
			// br1 has no MAC of its own: a random one as long as it has no port.
			if words[0] == "link" && words[1] == "br1" && words[i] == "address" {
				words[i+1] = "-"
			}
			if words[i] == "tentative" { // for a moment, even without detection
				words[i] = ""
			}
		}
		out = append(out, strings.TrimSpace(strings.Join(words, " ")))
	}
	return strings.Join(out, "\n")
}

func (p *pair) fail(format string, args ...any) {
	p.t.Helper()
	p.t.Errorf(format+"\nafter:\n%s", append(args, strings.Join(p.history, "\n"))...)
}

// answer is what has to be the same: the errno, and whether the error matches fs.ErrNotExist.
func answer(err error) string {
	var e *rtnl.Error
	var errno syscall.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &e) && e.Missing:
		return e.Errno.Error() + " (missing)"
	case errors.As(err, &errno):
		return errno.Error()
	}
	return err.Error()
}

// picker makes random changes out of few values, so that they meet.
type picker struct{ *rand.Rand }

func one[T any](p picker, of ...T) T { return of[p.IntN(len(of))] }

// rarely returns v once in n times, else the zero value.
func rarely[T any](p picker, n int, v T) T {
	var zero T
	if p.IntN(n) == 0 {
		return v
	}
	return zero
}

func (p picker) change() rtnl.Change {
	switch n := p.IntN(100); {
	case n < 14:
		return rtnl.Change{Verb: rtnl.Add, Object: p.newLink()}
	case n < 34:
		return rtnl.Change{Verb: rtnl.Set, Object: p.setLink()}
	case n < 38:
		return rtnl.Change{Verb: rtnl.Delete, Object: rtnl.Link{Name: p.name()}}
	case n < 52:
		return rtnl.Change{Verb: one(p, rtnl.Add, rtnl.Add, rtnl.Add, rtnl.Delete), Object: p.addr()}
	case n < 72:
		return rtnl.Change{Verb: p.verb(), Object: p.route()}
	case n < 80:
		return rtnl.Change{Verb: p.verb(), Object: p.nexthop()}
	case n < 88:
		return rtnl.Change{Verb: p.verb(), Object: rtnl.Neigh{Link: p.name(), IP: p.target(), MAC: p.mac(), Permanent: true}}
	case n < 94:
		return rtnl.Change{Verb: p.verb(), Object: rtnl.FDB{Link: one(p, "vx0", "vx6", "vx2"), MAC: p.mac(), Dst: p.target()}}
	}
	return rtnl.Change{Verb: rtnl.Set, Object: p.sysctl()}
}

func (p picker) verb() rtnl.Verb { return one(p, rtnl.Add, rtnl.Add, rtnl.Replace, rtnl.Delete) }

func (p picker) name() string {
	return one(p, "a0", "a0", "a0", "a1", "b0", "b1", "c0", "c1", "br0", "br1", "vx0", "vx0", "vx2", "vx6", "nope")
}

func (p picker) mac() rtnl.MAC {
	return rtnl.MAC{2, 0, 0, 0, 0, byte(p.IntN(6) + 1)}
}

func (p picker) mtu() int { return one(p, 60, 68, 1200, 1280, 1400, 1450, 1500, 9000, 65535, 70000) }

func (p picker) newLink() rtnl.Link {
	l := rtnl.Link{Up: one(p, rtnl.On, rtnl.On, rtnl.Unset), MTU: rarely(p, 3, p.mtu()), MAC: p.mac(), Alias: rarely(p, 4, "podnet:x")}
	l.Master = rarely(p, 4, one(p, "br0", "br1", "a0"))
	l.Hairpin = rarely(p, 8, rtnl.On)
	switch p.IntN(8) {
	case 0, 1:
		l.Name, l.Kind = "br0", rtnl.KindBridge
	case 2:
		l.Name, l.Kind, l.MAC = "br1", rtnl.KindBridge, rtnl.MAC{}
	case 3, 4:
		l.Kind = rtnl.KindVeth
		l.Name = one(p, "a", "a", "b")
		l.Name, l.Veth = l.Name+"0", rtnl.Veth{Peer: l.Name + "1", PeerMAC: p.mac()}
	case 5:
		l.Kind, l.Name = rtnl.KindVeth, "c0"
		l.Veth = rtnl.Veth{Peer: "c1", PeerNetns: "other", PeerMAC: p.mac()}
	default:
		l.Kind, l.Name = rtnl.KindVXLAN, one(p, "vx0", "vx2", "vx6")
		l.VXLAN = rtnl.VXLAN{VNI: one(p, uint32(1), 1, 2), Port: rarely(p, 3, uint16(4789)), Underlay: rarely(p, 2, one(p, "a0", "b0", "nope"))}
		l.VXLAN.Local = one(p, netip.Addr{}, ip("10.0.0.1"))
		if l.Name == "vx6" {
			l.VXLAN.Local = ip("fd00::1")
		}
		l.VXLAN.Learning = one(p, rtnl.Unset, rtnl.Off)
		l.TxChecksum = rarely(p, 4, rtnl.Off)
	}
	return l
}

func (p picker) setLink() rtnl.Link {
	l := rtnl.Link{Name: p.name()}
	switch p.IntN(9) {
	case 0, 1, 2, 3:
		l.Up = one(p, rtnl.On, rtnl.On, rtnl.Off)
	case 4:
		l.MTU = p.mtu()
	case 5:
		l.MAC = one(p, p.mac(), p.mac(), rtnl.MAC{1})
	case 6:
		l.Master = one(p, "br0", "br1", "br1", "a0", "nope")
		l.Hairpin = rarely(p, 3, rtnl.On)
	case 7:
		l.Alias, l.Hairpin = one(p, "podnet:y", strings.Repeat("x", 256)), rarely(p, 2, rtnl.Off)
	case 8:
		l.Name, l.Kind = one(p, "vx0", "vx6"), rtnl.KindVXLAN
		l.VXLAN.VNI = rarely(p, 2, uint32(1))
		l.VXLAN.Local = rarely(p, 3, one(p, ip("10.0.0.2"), ip("fd00::2")))
		l.VXLAN.Learning = rarely(p, 2, rtnl.On)
		l.TxChecksum = rarely(p, 3, rtnl.Off)
	}
	return l
}

func (p picker) addr() rtnl.Addr {
	a := rtnl.Addr{Link: p.name(), NoPrefixRoute: p.IntN(6) == 0}
	a.Prefix = prefix(one(p, "10.0.0.1/24", "10.0.0.1/24", "10.0.0.2/24", "10.0.0.1/25", "10.0.1.1/24", "10.9.9.9/32", "10.0.0.4/31",
		"fd00::1/64", "fd00::1/64", "fd00::2/64", "fd00::1/128", "fd00:1::1/64", "fd00:9::9/128", "fe80::5/64", "::1/128", "ff02::5/128", "::/128"))
	a.NoDAD = a.Prefix.Addr().Is6()
	return a
}

// target returns an address that may be a gateway, a neighbour, a destination.
func (p picker) target() netip.Addr {
	return ip(one(p, "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.77", "10.0.0.255", "10.0.1.9", "10.1.0.5", "10.2.0.1", "192.0.2.1", "127.0.0.1",
		"fd00::1", "fd00::2", "fd00::3", "fd00::77", "fd00:1::9", "fd01::5", "fd02::1", "2001:db8::1", "::1"))
}

func (p picker) route() rtnl.Route {
	r := rtnl.Route{Protocol: one(p, rtnl.ProtocolVXLAN, rtnl.ProtocolVXLAN, rtnl.ProtocolUnspec), Scope: one(p, rtnl.ScopeAuto, rtnl.ScopeAuto, rtnl.ScopeUniverse)}
	v6 := p.IntN(2) == 0
	source, gateway := ip(one(p, "10.0.0.1", "10.0.0.2", "10.9.9.9", "127.0.0.1")), ip(one(p, "10.0.0.3", "10.0.0.3", "10.0.0.1", "10.0.1.9", "10.0.0.255", "10.1.0.5", "224.0.0.5"))
	r.Dst = prefix(one(p, "10.1.0.0/16", "10.1.0.0/16", "10.2.0.0/24", "10.1.0.5/32", "0.0.0.0/0", "10.1.0.5/16"))
	if v6 {
		source, gateway = ip(one(p, "fd00::1", "fd00::2", "fd00:9::9")), ip(one(p, "fd00::3", "fd00::3", "fd00::1", "fd00:1::9", "fd01::5", "fe80::9", "ff02::5"))
		r.Dst = prefix(one(p, "fd01::/64", "fd01::/64", "fd02::/64", "fd01::5/128", "::/0", "fd01::5/64"))
	}
	switch p.IntN(10) {
	case 0:
		r.Type = one(p, rtnl.Blackhole, rtnl.Unreachable)
	case 1, 2:
		r.Nexthop = uint32(p.IntN(4) + 1)
		r.Link = rarely(p, 8, p.name())
	case 3, 4:
		r.Link = p.name()
	case 5:
		r.Gateway = gateway
	default:
		r.Gateway, r.Link, r.Onlink = gateway, p.name(), p.IntN(3) == 0
	}
	r.Src = rarely(p, 4, source)
	r.Priority = rarely(p, 4, one(p, uint32(5), 256, 1024))
	r.Table = rarely(p, 8, uint32(100))
	r.MTU = rarely(p, 6, one(p, 1300, 70000))
	return r
}

func (p picker) nexthop() rtnl.Nexthop {
	n := rtnl.Nexthop{ID: uint32(p.IntN(4) + 1), Link: p.name(), Protocol: rtnl.ProtocolVXLAN, Onlink: p.IntN(2) == 0}
	n.Gateway = ip(one(p, "10.0.0.3", "10.0.0.3", "10.0.0.1", "10.0.1.9", "fd00::3", "fd00::3", "fd00:1::9", "fe80::9"))
	return n
}

func (p picker) sysctl() rtnl.Sysctl {
	dev := one(p, "a0", "a0", "br0", "vx0", "all", "default", "nope")
	name := one(p, "net/ipv6/conf/"+dev+"/disable_ipv6", "net/ipv6/conf/"+dev+"/keep_addr_on_down", "net/ipv4/conf/"+dev+"/promote_secondaries",
		"net/ipv6/conf/"+dev+"/addr_gen_mode", "net/ipv4/ip_forward", "net/ipv6/conf/"+dev+"/forwarding", "net/ipv4/nope", "net/ipv6/conf/"+dev+"/accept_ra")
	return rtnl.Sysctl{Name: name, Value: one(p, "0", "0", "1", "x")}
}
