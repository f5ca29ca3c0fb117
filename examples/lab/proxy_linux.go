package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/podnet/podnet/internal/netns"
	"github.com/podnet/podnet/rtnl"
)

// Where a node's podnet-proxy answers. Its usual port is the agent's here.
const (
	proxyHealth  = "127.0.0.1:10266"
	proxyMetrics = "127.0.0.1:10249"
)

// startServices serves in the pods, tells of the Services, and starts a proxy on every node.
func (l *lab) startServices(ctx context.Context) error {
	if l.proxy == "none" {
		return nil
	}
	l.services = l.planServices()
	source := "files"
	if l.cluster != nil {
		source = "the API server"
	}
	l.report.progress("services: %d from %s, podnet-proxy in mode %s on every node", len(l.services.all()), source, l.proxy)
	for _, p := range l.services.web.members {
		if err := l.startPod(p); err != nil {
			return err
		}
	}
	if err := errors.Join(l.startNames(), l.startIngress(), l.startBalancer(l.services.ingress)); err != nil {
		return err
	}
	if err := l.tellServices(ctx); err != nil {
		return err
	}
	for _, s := range l.services.all() {
		if s.balanced {
			if err := l.lead(ctx, s, l.nodes[0]); err != nil {
				return err
			}
		}
	}
	for _, n := range l.nodes {
		if l.cluster != nil {
			if err := l.cluster.mountProxyToken(ctx, n); err != nil {
				return err
			}
		}
		if err := l.startProxy(n); err != nil {
			return err
		}
	}
	for _, n := range l.nodes {
		if err := l.waitProxy(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// tellServices tells the proxies of the Services, for the first time.
func (l *lab) tellServices(ctx context.Context) error {
	if l.cluster != nil {
		return l.cluster.makeServices(ctx, l.services, l.pods(), l.families())
	}
	if err := os.MkdirAll(l.path("services"), 0o700); err != nil {
		return err
	}
	for _, n := range l.nodes {
		if err := l.writeObjects(n.name, n.object()); err != nil {
			return err
		}
	}
	for _, s := range l.services.all() {
		if err := l.writeService(s); err != nil {
			return err
		}
	}
	return nil
}

// object returns the node as Kubernetes has it: a proxy learns its own addresses from it.
func (n *node) object() object {
	var addresses []object
	for _, a := range n.ports[0].addrs {
		addresses = append(addresses, object{"type": "InternalIP", "address": a.Addr().String()})
	}
	return object{"apiVersion": "v1", "kind": "Node", "metadata": object{"name": n.name}, "status": object{"addresses": addresses}}
}

// startProxy starts podnet-proxy on a node.
func (l *lab) startProxy(n *node) error {
	source := []string{"--services", l.path("services")}
	if l.cluster != nil {
		source = []string{"--kubeconfig", n.path("proxy.kubeconfig")}
	}
	var pods []string
	for _, p := range l.clusterCIDRs() {
		pods = append(pods, p.String())
	}
	var err error
	n.proxy, err = l.startOn(n, "podnet-proxy", n.path("proxy.log"), append(source,
		"--mode", l.proxy,
		"--hostname-override", n.name,
		"--cluster-cidr", strings.Join(pods, ","),
		"--healthz-bind-address", proxyHealth,
		"--metrics-bind-address", proxyMetrics,
	))
	return err
}

// waitProxy waits until the node leads to its Services.
func (l *lab) waitProxy(ctx context.Context, n *node) error {
	_, err := poll(ctx, l.times(30*time.Second), func() error { // a guest loads the kernel's modules meanwhile; usually it takes 100 ms
		select {
		case <-n.proxy.exited:
			return nil // said below
		default:
		}
		status, body, err := httpGet(ctx, n.netns, "http://"+proxyHealth+"/healthz")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("/healthz: %d %s", status, body)
		}
		for _, v6 := range l.families() {
			if err == nil { // not TCP: its second SYN comes after a second
				_, err = echoOnce(l.times(100*time.Millisecond), n.netns, l.services.web.clusterIP(v6))
			}
		}
		return err
	})
	select {
	case <-n.proxy.exited:
		return fmt.Errorf("podnet-proxy on %s exited: %s", n.name, tail(n.proxy.log))
	default:
	}
	if err != nil {
		return fmt.Errorf("podnet-proxy on %s: %w; its log: %s", n.name, err, tail(n.proxy.log))
	}
	return nil
}

// lead has the router send what goes to the Service's load balancer IP to a node, as a load balancer that speaks BGP or ARP does.
func (l *lab) lead(ctx context.Context, s *labService, n *node) error {
	var plan rtnl.Plan
	for _, v6 := range l.families() {
		ip := s.balancerIP(v6).Addr()
		for i, p := range l.router.ports {
			if p.on.name == n.ports[0].on.name {
				plan = append(plan, rtnl.Change{Verb: rtnl.Replace, Object: rtnl.Route{
					Dst: netip.PrefixFrom(ip, ip.BitLen()), Gateway: n.addr(v6), Link: l.router.ports[i].ifname, Protocol: rtnl.ProtocolStatic}})
			}
		}
	}
	return write(ctx, l.router.netns, plan)
}

// endProxies ends the proxies and has each remove what it made: nothing may be left.
func (l *lab) endProxies() {
	if l.proxy == "none" {
		return
	}
	var errs, left []error
	for _, n := range l.nodes {
		if n.proxy == nil {
			continue
		}
		n.proxy.stop(syscall.SIGTERM)
		errs = append(errs, runIn(n.netns, filepath.Join(l.bin, "podnet-proxy"), "--cleanup"))
		left = append(left, l.proxyLeft(n))
		n.proxy = nil
	}
	l.report.add(row{Name: "podnet-proxy --cleanup", Cells: []cell{result("cleanup", errs...), result("nothing left", left...)}, Detail: fmt.Sprintf("%d nodes", len(errs))})
}

// proxyLeft looks for what proxies make: in nftables and iptables by name, and virtual servers of IPVS.
func (l *lab) proxyLeft(n *node) error {
	var ruleset, chains, servers []byte
	err := netns.Do(n.netns, func() (err error) {
		if ruleset, err = exec.Command("nft", "list", "ruleset").CombinedOutput(); err != nil {
			return fmt.Errorf("nft list ruleset: %w: %s", err, ruleset)
		}
		if l.proxy == "iptables" {
			if chains, err = exec.Command("iptables-save").CombinedOutput(); err != nil {
				return fmt.Errorf("iptables-save: %w: %s", err, chains)
			}
		}
		if l.proxy == "ipvs" {
			servers, err = os.ReadFile("/proc/thread-self/net/ip_vs")
		}
		return err
	})
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(ruleset) + string(chains)) {
		for _, address := range []string{"podnet-service", "PODNET-SVC", "10.96.0.", "fd00:10:96:"} {
			if strings.Contains(line, address) {
				return fmt.Errorf("%s still has: %s", n.name, strings.TrimSpace(line))
			}
		}
	}
	for line := range strings.Lines(string(servers)) {
		if strings.HasPrefix(line, "TCP") || strings.HasPrefix(line, "UDP") || strings.HasPrefix(line, "SCTP") {
			return fmt.Errorf("%s still has: %s", n.name, strings.TrimSpace(line))
		}
	}
	return nil
}
