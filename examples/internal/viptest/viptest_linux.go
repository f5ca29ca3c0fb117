// Package viptest tests the examples that put a virtual address in front of two servers.
package viptest

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
)

// Test runs an example three times in a namespace of its own: it shows a plan, does it, and finds nothing left to do. Then it asks the address.
func Test(t *testing.T, run func(out io.Writer, apply bool) error) {
	ns := rtnltest.NewNetns(t)
	host(t, ns)
	for _, step := range []struct {
		apply bool
		want  string // in what it prints
	}{
		{false, "web ClusterIP 192.168.1.100:80 -> 192.168.1.11:8080 192.168.1.11:8081"},
		{true, "kernel objects written"},
		{true, "0 kernel objects written"},
	} {
		var out strings.Builder
		if err := ns.Do(func() error { return run(&out, step.apply) }); err != nil {
			t.Fatalf("-apply=%v: %v: %s", step.apply, err, out.String())
		}
		if !strings.Contains(out.String(), step.want) {
			t.Fatalf("-apply=%v prints %q, want %q", step.apply, out.String(), step.want)
		}
	}
	seen := map[string]int{}
	for range 60 {
		seen[ask(t, ns)]++
	}
	if len(seen) != 2 {
		t.Errorf("answers: %v, want some of both servers", seen)
	}
}

// host gives the namespace the address of the example's host, with a server on each of the two ports.
func host(t *testing.T, ns *rtnltest.Netns) {
	t.Helper()
	for i, err := range ns.Conn(t).Write(t.Context(), rtnl.Plan{
		{Verb: rtnl.Set, Object: rtnl.Link{Name: "lo", Up: rtnl.On}},
		{Verb: rtnl.Add, Object: rtnl.Link{Name: "up0", Kind: rtnl.KindVeth, Up: rtnl.On, Veth: rtnl.Veth{Peer: "far0"}}},
		{Verb: rtnl.Set, Object: rtnl.Link{Name: "far0", Up: rtnl.On}},
		{Verb: rtnl.Add, Object: rtnl.Addr{Link: "up0", Prefix: netip.MustParsePrefix("192.168.1.11/24")}},
	}) {
		if err != nil {
			t.Fatalf("change %d: %v", i, err)
		}
	}
	err := ns.Do(func() error {
		for _, port := range []string{"8080", "8081"} {
			l, err := net.Listen("tcp", "192.168.1.11:"+port)
			if err != nil {
				return err
			}
			t.Cleanup(func() { l.Close() })
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return // closed
					}
					fmt.Fprint(c, port)
					c.Close()
				}
			}()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// ask connects to the virtual address and returns what the server says.
func ask(t *testing.T, ns *rtnltest.Netns) (answer string) {
	t.Helper()
	err := ns.Do(func() error {
		c, err := net.DialTimeout("tcp", "192.168.1.100:80", 10*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		data, err := io.ReadAll(c)
		answer = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return answer
}
