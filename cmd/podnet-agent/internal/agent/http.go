package agent

import (
	"fmt"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Handler serves /healthz, /readyz and /metrics, and /debug/pprof/ if asked to.
func (a *Agent) Handler(withPprof bool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		// The loop comes by at least once per resync; a pass over 20,000 peers from nothing takes seconds.
		limit := 2*a.o.Resync + 30*time.Second
		age := a.status.age()
		text := fmt.Sprintf("the loop came by %v ago\n", age.Round(time.Millisecond))
		if age > limit {
			http.Error(w, fmt.Sprintf("%swant at most %v", text, limit), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, text)
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		ok, text := a.status.ready()
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if !ok {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprint(w, text)
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.o.Metrics.Gatherer(), promhttp.HandlerOpts{}))
	if withPprof {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return mux
}
