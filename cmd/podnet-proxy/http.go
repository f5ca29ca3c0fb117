package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/kube-proxy/config/v1alpha1"
)

// bindAgain is how often a port that cannot be bound is tried, as kube-proxy does.
const bindAgain = 5 * time.Second

// serveHTTP starts both servers.
func (w *wiring) serveHTTP(ctx context.Context, all *sync.WaitGroup, fail context.CancelCauseFunc) {
	healthz := http.NewServeMux()
	w.proxyCheck.Register(healthz)
	for _, s := range []struct {
		name    string
		addr    netip.AddrPort
		handler http.Handler
	}{{"healthz", w.config.Healthz, healthz}, {"metrics", w.config.Metrics, w.metricsMux()}} {
		if s.addr.IsValid() {
			all.Go(func() { w.listen(ctx, s.name, s.addr, s.handler, fail) })
		}
	}
}

// metricsMux serves what kube-proxy serves on its metrics address.
func (w *wiring) metricsMux() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(w.metrics.Gatherer(), promhttp.HandlerOpts{}))
	text := func(text string) http.HandlerFunc {
		return func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
			rw.Header().Set("X-Content-Type-Options", "nosniff")
			fmt.Fprint(rw, text)
		}
	}
	mux.HandleFunc("GET /proxyMode", text(w.mode))
	mux.HandleFunc("GET /healthz", text("ok")) // the process runs; the health of the proxy is on the other address
	mux.HandleFunc("GET /configz", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(rw).Encode(map[string]any{v1alpha1.GroupName: w.config.KubeProxy})
	})
	if w.config.Profiling {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// listen serves until ctx ends, and tries again if the port cannot be bound.
func (w *wiring) listen(ctx context.Context, name string, addr netip.AddrPort, h http.Handler, fail context.CancelCauseFunc) {
	told := ""
	for {
		err := serveOnce(ctx, addr, h)
		if ctx.Err() != nil {
			return
		}
		if w.config.BindHardFail {
			fail(fmt.Errorf("%s server: %w", name, err))
			return
		}
		if text := fmt.Sprint(err); text != told {
			w.log.Warn("server cannot listen; tried again", "server", name, "address", addr, "err", err)
			told = text
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(bindAgain):
		}
	}
}

func serveOnce(ctx context.Context, addr netip.AddrPort, h http.Handler) error {
	network := "tcp"
	if addr.Addr().Is4() {
		network = "tcp4" // 0.0.0.0 is IPv4 alone
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, network, addr.String())
	if err != nil {
		return err
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	return s.Serve(l)
}
