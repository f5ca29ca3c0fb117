package health

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/podnet/podnet/service"
)

// State is what health depends on. It is asked for with each request.
type State struct {
	Pending time.Time // since when a change waits for the kernel; zero: none does
	Synced  time.Time // when the kernel last was as wanted; zero: never
	Node    bool      // the node may serve: it exists and is not going away
}

// Proxy answers /healthz and /livez.
type Proxy struct {
	State    func() State
	Limit    time.Duration               // how long a change may wait
	Families []service.Family            // that are served
	Count    func(path string, code int) // of the answers; nil: nobody counts
}

// report is kube-proxy's ProxyHealth.
type report struct {
	LastUpdated  time.Time               `json:"lastUpdated"`
	CurrentTime  time.Time               `json:"currentTime"`
	NodeEligible *bool                   `json:"nodeEligible,omitempty"`
	Healthy      bool                    `json:"healthy"`
	Status       map[string]familyReport `json:"status,omitempty"`
}

type familyReport struct {
	LastUpdated time.Time `json:"lastUpdated"`
	Healthy     bool      `json:"healthy"`
}

// Healthy reports whether changes get into the kernel in time.
func (p *Proxy) Healthy() bool { return p.healthy(p.State(), time.Now()) }

func (p *Proxy) healthy(s State, now time.Time) bool {
	return s.Pending.IsZero() || now.Sub(s.Pending) < p.Limit
}

// Register adds the paths to a mux.
func (p *Proxy) Register(mux *http.ServeMux) {
	for _, path := range []string{"/healthz", "/livez"} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { p.serve(w, path) })
	}
}

func (p *Proxy) serve(w http.ResponseWriter, path string) {
	s, now := p.State(), time.Now()
	r := report{LastUpdated: s.Synced, CurrentTime: now, Healthy: p.healthy(s, now)}
	if !s.Synced.IsZero() {
		r.Status = map[string]familyReport{}
		for _, f := range p.Families {
			r.Status[f.String()] = familyReport{s.Synced, r.Healthy}
		}
	}
	code := http.StatusOK
	if path == "/healthz" {
		r.NodeEligible = &s.Node
		if !s.Node {
			code = http.StatusServiceUnavailable
		}
	}
	if !r.Healthy {
		code = http.StatusServiceUnavailable
	}
	if code == http.StatusOK {
		r.LastUpdated = now // as kube-proxy: nothing waits, so it is up to date
	}
	if p.Count != nil {
		p.Count(path, code)
	}
	body, err := json.Marshal(r)
	if err != nil { // years beyond 9999 only
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	header(w)
	w.WriteHeader(code)
	_, _ = w.Write(body)
}

func header(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
}
