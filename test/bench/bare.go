package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/podnet/podnet/internal/netns"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/vxlan"
)

// bare writes what the agent writes, from a plan that is there, in a namespace of its own: with rtnl, and with iproute2.
func (k *kubeBench) bare(ctx context.Context) (wall, cpu, batch time.Duration, err error) {
	want := vxlan.Config{VNI: 1, Port: 8472, Underlay: "eth0", Endpoints: []vxlan.Endpoint{
		{Local: nodeAddr4(0), PodCIDR: podCIDR4(0), MAC: vxlan.MACFor(nodeName(0), vxlan.DeviceName(1, rtnl.IPv4))},
		{Local: nodeAddr6(0), PodCIDR: podCIDR6(0), MAC: vxlan.MACFor(nodeName(0), vxlan.DeviceName(1, rtnl.IPv6))}}}
	for i := 1; i < k.n; i++ {
		want.Peers = append(want.Peers,
			vxlan.Peer{Name: nodeName(i), PodCIDR: podCIDR4(i), Addr: nodeAddr4(i), MAC: vxlan.MACFor(nodeName(i), vxlan.DeviceName(1, rtnl.IPv4))},
			vxlan.Peer{Name: nodeName(i), PodCIDR: podCIDR6(i), Addr: nodeAddr6(i), MAC: vxlan.MACFor(nodeName(i), vxlan.DeviceName(1, rtnl.IPv6))})
	}
	place := func() (string, *rtnl.Conn, rtnl.Plan, error) {
		host, err := k.b.netns()
		if err != nil {
			return "", nil, nil, err
		}
		if err := netns.Do(host, underlay); err != nil {
			return "", nil, nil, err
		}
		conn, err := rtnl.Open(rtnl.Options{Netns: host})
		if err != nil {
			return "", nil, nil, err
		}
		plan, err := vxlan.New(conn, vxlan.Options{}).Plan(ctx, want)
		return host, conn, plan, err
	}
	_, conn, plan, err := place()
	if err != nil {
		return 0, 0, 0, err
	}
	defer conn.Close()
	before := selfCPU()
	wall, err = clock(func() error { return errors.Join(conn.Write(ctx, plan)...) })
	cpu = selfCPU() - before
	if err != nil {
		return 0, 0, 0, err
	}
	host, conn2, plan, err := place()
	if err != nil {
		return 0, 0, 0, err
	}
	defer conn2.Close()
	batch, err = ipBatch(ctx, host, conn2, plan)
	return wall, cpu, batch, err
}

// ipBatch has iproute2 write the peers of a plan; the devices and sysctls, of which it has no time to speak, are written before.
func ipBatch(ctx context.Context, host string, conn *rtnl.Conn, plan rtnl.Plan) (time.Duration, error) {
	var devices rtnl.Plan
	var bridge, ip strings.Builder
	for _, c := range plan {
		switch c.Object.(type) {
		case rtnl.FDB:
			fmt.Fprintln(&bridge, c)
		case rtnl.Route, rtnl.Neigh, rtnl.Nexthop:
			fmt.Fprintln(&ip, c)
		default:
			devices = append(devices, c)
		}
	}
	if err := errors.Join(conn.Write(ctx, devices)...); err != nil {
		return 0, err
	}
	return clock(func() error {
		return netns.Do(host, func() error {
			for _, tool := range []struct{ name, lines string }{{"bridge", bridge.String()}, {"ip", ip.String()}} {
				cmd := exec.Command(tool.name, "-batch", "-")
				cmd.Stdin = strings.NewReader(tool.lines)
				if out, err := cmd.CombinedOutput(); err != nil {
					return fmt.Errorf("%s -batch: %w: %.300s", tool.name, err, out)
				}
			}
			return nil
		})
	})
}

func selfCPU() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
