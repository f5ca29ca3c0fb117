package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/containernetworking/cni/libcni"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/podnet/podnet/internal/netns"
	"github.com/podnet/podnet/rtnl"
)

const podIfname = "eth0"

// attach does what a container runtime does: it makes the pod's namespace, brings its loopback up, and runs ADD of the
// node's conflist through libcni, in the node's namespace.
func (l *lab) attach(ctx context.Context, p *pod) error {
	if err := create(p.netns); err != nil {
		return err
	}
	if err := write(ctx, p.netns, rtnl.Plan{set(rtnl.Link{Name: "lo", Up: rtnl.On})}); err != nil {
		return err
	}
	var result *current.Result
	err := l.cni(p, func(cni *libcni.CNIConfig, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) error {
		r, err := cni.AddNetworkList(ctx, list, rt)
		if err != nil {
			return err
		}
		result, err = current.NewResultFromResult(r)
		return err
	})
	if err != nil {
		return fmt.Errorf("ADD %s on %s: %w", p.name, p.node.name, err)
	}
	for _, ip := range result.IPs {
		prefix, err := netip.ParsePrefix(ip.Address.String())
		if err != nil {
			return fmt.Errorf("ADD %s: result: %w", p.name, err)
		}
		p.addrs = append(p.addrs, prefix)
	}
	conn, err := rtnl.Open(rtnl.Options{Netns: p.netns})
	if err != nil {
		return err
	}
	defer conn.Close()
	link, err := conn.Link(ctx, podIfname)
	p.mtu = link.MTU
	return err
}

// detach runs DEL.
func (l *lab) detach(ctx context.Context, p *pod) error {
	return l.cni(p, func(cni *libcni.CNIConfig, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) error {
		return cni.DelNetworkList(ctx, list, rt)
	})
}

// check runs CHECK.
func (l *lab) check(ctx context.Context, p *pod) error {
	return l.cni(p, func(cni *libcni.CNIConfig, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) error {
		return cni.CheckNetworkList(ctx, list, rt)
	})
}

// cni calls fn inside the node's namespace with the conflist that the node's agent wrote.
func (l *lab) cni(p *pod, fn func(*libcni.CNIConfig, *libcni.NetworkConfigList, *libcni.RuntimeConf) error) error {
	files, err := libcni.ConfFiles(p.node.path("net.d"), []string{".conflist"})
	if err != nil {
		return err
	}
	if len(files) != 1 {
		return fmt.Errorf("node %s has %d conflists, want the one of its agent", p.node.name, len(files))
	}
	list, err := libcni.ConfListFromFile(files[0])
	if err != nil {
		return err
	}
	cni := libcni.NewCNIConfigWithCacheDir([]string{l.bin}, p.node.path("cni-cache"), nil)
	rt := &libcni.RuntimeConf{ContainerID: p.name, NetNS: p.netns, IfName: podIfname}
	return netns.Do(p.node.netns, func() error { return fn(cni, list, rt) })
}

// conflist returns what the agent wrote, for the report.
func (n *node) conflist() (json.RawMessage, error) {
	files, err := libcni.ConfFiles(n.path("net.d"), []string{".conflist"})
	if err != nil || len(files) == 0 {
		return nil, err
	}
	list, err := libcni.ConfListFromFile(files[0])
	if err != nil {
		return nil, err
	}
	return list.Bytes, nil
}
