package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/agent"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/handoff"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/kubenode"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/netconf"
	"github.com/podnet/podnet/hostgw"
	"github.com/podnet/podnet/masq"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/vxlan"
)

// masqOptions are auto, or nftables if the network configuration asks for it (flannel's EnableNFTables).
func (o options) masqOptions() masq.Options {
	if o.net.NFTables {
		return masq.Options{Backend: masq.NFTables}
	}
	return masq.Options{}
}

// parts puts the library together for one node.
func (o options) parts(conn *rtnl.Conn, masquerade *masq.Reconciler) agent.Parts {
	files := handoff.Files{SubnetFile: o.subnetFile, Record: filepath.Join(o.stateDir, "files.json")}
	if o.cniConfDir != "" {
		files.Conflist = filepath.Join(o.cniConfDir, o.cniConfName)
	}
	return agent.Parts{
		Kernel:    conn,
		VXLAN:     vxlan.New(conn, vxlan.Options{}),
		HostGW:    hostgw.New(conn, hostgw.Options{}),
		Masq:      masquerade,
		Files:     files,
		List:      handoff.Conflist{Name: "podnet", SubnetFile: o.subnetFile, Bridge: o.bridge, DataDir: o.cniDataDir},
		IPMasq:    o.ipMasq,
		NoForward: !o.forward,

		Network: o.network, TakeOver: o.takeOver(), LingerUntil: o.lingerUntil,
	}
}

// events is "off" in an agent that a test builds to see what it heals when every event of the kernel is lost: -ldflags "-X main.events=off".
var events = "on"

// serve runs the agent until ctx ends. It fails only before the agent has started. When the network configuration changes, it begins anew with that, as after
// a restart: the network stays as it is meanwhile.
func serve(ctx context.Context, o options, stderr *os.File) error {
	limitMemory()
	log := o.logger(stderr)
	unlock, err := lockNode(o.stateDir)
	if err != nil {
		return err
	}
	defer unlock()
	conn, err := rtnl.Open(rtnl.Options{SysctlDir: o.sysctlDir})
	if err != nil {
		return err
	}
	defer conn.Close()
	for {
		round, cancel := context.WithCancel(ctx)
		next := make(chan netconf.Config, 1)
		var watcher sync.WaitGroup
		watcher.Go(func() {
			if c, changed := o.awaitNetConf(round, log); changed {
				next <- c
				cancel()
			}
		})
		err := o.serveNet(round, conn, log)
		cancel()
		watcher.Wait()
		if err != nil || ctx.Err() != nil || len(next) == 0 {
			return err
		}
		o.net = <-next
		o.lingerUntil = time.Now().Add(o.linger)
	}
}

// serveNet runs the agent with one network configuration.
func (o options) serveNet(ctx context.Context, conn *rtnl.Conn, log *slog.Logger) error {
	var listener net.Listener
	var err error
	if o.listen != "" {
		if listener, err = net.Listen("tcp", o.listen); err != nil {
			return fmt.Errorf("--listen %q: %w", o.listen, err)
		}
		defer listener.Close()
	}

	if err := o.loadNetwork(); err != nil {
		return err
	}
	masquerade := masq.New(&masq.Netfilter{}, o.masqOptions())
	concerns := o.parts(conn, masquerade).Concerns(o.net)
	metrics := agent.NewMetrics(version, agent.Names(concerns))
	source, publisher, err := o.source(metrics, log)
	if err != nil {
		return err
	}
	var a *agent.Agent
	options := agent.Options{
		NodeName: o.nodeName,
		Net:      o.net,
		Uplink:   o.uplink.uplink,
		TakeOver: o.flannel.takeOver != "", FlannelVTEP: o.flannel.names == "flannel",
		Resync:   o.resync,
		Hold:     o.hold,
		Source:   source,
		Kernel:   conn,
		Concerns: concerns,
		Watches: []agent.Watch{
			{Name: "rtnetlink", Run: func(ctx context.Context, notify func()) error { return watch(ctx, conn, a, metrics, notify) }},
			{Name: "nftables", Run: masquerade.Watch},
		},
		Metrics: metrics,
		Logger:  log,
	}
	if events == "off" {
		options.Watches = nil
	}
	if k, ok := source.(*kubenode.Source); ok {
		options.Before = k.Saved()
	}
	if publisher != nil {
		options.Observe = publisher.Observe
		options.Watches = append(options.Watches, agent.Watch{Name: "publisher", Run: func(ctx context.Context, _ func()) error { return publisher.Run(ctx) }})
	}
	a = agent.New(options)
	for _, n := range o.net.Notes {
		log.Warn("network configuration", "note", n)
	}
	log.Info("podnet-agent starts", "version", version, "node", o.nodeName, "nodes", o.from(), "backend", o.net.Backend.Type,
		"networks", fmt.Sprint(o.net.Networks), "listen", o.listen)
	if listener != nil {
		stop := serveHTTP(listener, a.Handler(o.pprof))
		defer stop()
	}
	err = a.Run(ctx)
	log.Info("podnet-agent stops; the network stays as it is", "node", o.nodeName)
	return err
}

// watch passes on the kernel's events that the agent is interested in.
func watch(ctx context.Context, conn *rtnl.Conn, a *agent.Agent, m *agent.Metrics, notify func()) error {
	return conn.Watch(ctx, rtnl.Groups{Links: true, Addrs: true, Routes: true, Neighs: true}, func(e rtnl.Event) {
		if e.Overflow {
			m.Overflow()
		}
		if a.Interests(e) {
			notify()
		}
	})
}

// serveHTTP serves until the returned function is called.
func serveHTTP(l net.Listener, h http.Handler) (stop func()) {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l) // ends with Close
	}()
	return func() {
		_ = s.Close()
		<-done
	}
}

// cleanup removes what an agent left.
func cleanup(ctx context.Context, o options, stderr *os.File) error {
	log := o.logger(stderr)
	unlock, err := lockNode(o.stateDir)
	if err != nil {
		return err
	}
	defer unlock()
	conn, err := rtnl.Open(rtnl.Options{SysctlDir: o.sysctlDir})
	if err != nil {
		return err
	}
	defer conn.Close()
	removed, err := o.parts(conn, masq.New(&masq.Netfilter{}, masq.Options{})).Cleanup(ctx)
	for _, r := range removed {
		log.Debug("removed", "object", r)
	}
	log.Info("cleaned up", "removed", len(removed))
	if err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	for _, name := range []string{stateFile, stateFile + ".new", "agent.lock"} {
		if err := os.Remove(filepath.Join(o.stateDir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// limitMemory has the collector work harder than by default: nearly everything that a pass allocates is garbage after it, so the usual doubling
// of the live heap only makes the process larger (5,000 dual-stack nodes: peak 37 instead of 43 MiB, for a fifth more CPU time, measured with Go 1.26).
// No limit is set: in a cluster larger than expected, it would have the collector run all the time. GOGC in the environment wins.
func limitMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
}
