package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/podnet/podnet/cmd/podnet-proxy/internal/proxyconfig"
	"github.com/podnet/podnet/internal/netlock"
	"github.com/podnet/podnet/service/conntrack"
)

// proxy is one podnet-proxy.
type proxy struct {
	config proxyconfig.Config
	log    *slog.Logger
	start  time.Time
}

func newProxy(c proxyconfig.Config, stderr *os.File) *proxy {
	level := slog.LevelInfo
	if c.Verbosity >= 4 {
		level = slog.LevelDebug
	}
	var h slog.Handler = slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level})
	if c.LogJSON {
		h = slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: level})
	}
	p := &proxy{config: c, log: slog.New(h), start: time.Now()}
	// What client-go says is said by service/kube already, in fewer lines.
	if level == slog.LevelDebug {
		klog.SetSlogLogger(p.log.With("from", "client-go"))
	} else {
		klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	}
	return p
}

// serve serves until ctx ends. It fails only before it has begun, or when a port cannot be bound and that is to be fatal.
func (p *proxy) serve(ctx context.Context) error {
	c := p.config
	limitMemory()
	for _, w := range c.Warnings {
		p.log.Warn(w)
	}
	unlock, err := netlock.Take("podnet-proxy")
	if err != nil {
		return err
	}
	defer func() { _ = unlock() }()
	if !c.ReplaceKubeProxy {
		p.warnOfKubeProxy(ctx)
	}
	chosen, err := p.choose(ctx)
	if err != nil {
		return err
	}
	w, err := p.wire(chosen)
	if err != nil {
		return err
	}
	p.adjustOOM()
	p.limitConntrack()
	p.log.Info("podnet-proxy starts", "version", version, "node", c.NodeName, "mode", chosen.mode, "services", p.from(), "healthz", c.Healthz, "metrics", c.Metrics)

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel(nil)
	w.run(ctx, &all, cancel)
	<-ctx.Done()
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	p.log.Info("podnet-proxy stops; Services work on as they are", "node", c.NodeName)
	return nil
}

// from says where the Services come from, for the log.
func (p *proxy) from() string {
	switch c := p.config; {
	case c.Services != "":
		return c.Services
	case c.Kubernetes.Master != "":
		return c.Kubernetes.Master
	case c.Kubernetes.Kubeconfig != "":
		return c.Kubernetes.Kubeconfig
	}
	return "the pod's API server"
}

// initOnly does what needs root.
func (p *proxy) initOnly(context.Context) error {
	for _, w := range p.config.Warnings {
		p.log.Warn(w)
	}
	return p.conntrackLimits(true)
}

// limitConntrack sets the limits of connection tracking. A container may not be allowed to: then --init-only has done it before, or the log tells.
func (p *proxy) limitConntrack() {
	if err := p.conntrackLimits(false); err != nil {
		p.log.Warn("connection tracking is left as it is; podnet-proxy --init-only sets it with more privileges", "err", err)
	}
}

func (p *proxy) conntrackLimits(all bool) error {
	c := p.config.Conntrack
	limits := conntrack.Limits{MaxPerCore: c.MaxPerCore, Min: c.Min, TCPEstablished: c.TCPEstablished, TCPCloseWait: c.TCPCloseWait, UDP: c.UDP, UDPStream: c.UDPStream, TCPBeLiberal: c.BeLiberal}
	done, err := limits.Apply(settings{dir: p.config.SysctlDir, all: all})
	for _, s := range done {
		p.log.Info("set", "path", s.Path, "value", s.Value)
	}
	return err
}

// adjustOOM asks the kernel to spare the process when memory is short, as kube-proxy does.
func (p *proxy) adjustOOM() {
	err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(p.config.OOMScoreAdj)), 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.log.Debug("oom-score-adj", "value", p.config.OOMScoreAdj, "err", err)
	}
}

// limitMemory has the collector work harder than by default: nearly everything that a sync allocates is garbage after it. GOGC in the environment wins.
func limitMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
}

// cleanup removes what podnet-proxy left, and what kube-proxy left, as asked.
func (p *proxy) cleanup(ctx context.Context) error {
	var faults []error
	if p.config.Cleanup {
		unlock, err := netlock.Take("podnet-proxy")
		if err != nil {
			return err
		}
		defer func() { _ = unlock() }()
		faults = append(faults, p.cleanupModes(ctx, ""))
	}
	if p.config.CleanupKubeProxy {
		faults = append(faults, p.cleanupKubeProxy(ctx, nil))
	}
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	p.log.Info("cleaned up")
	return nil
}
