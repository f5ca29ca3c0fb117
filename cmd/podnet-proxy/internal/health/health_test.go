package health_test

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podnet/podnet/cmd/podnet-proxy/internal/health"
	"github.com/podnet/podnet/service"
)

func TestProxy(t *testing.T) {
	for _, tt := range []struct {
		name                   string
		pending, synced        time.Duration // ago; negative: never
		node                   bool
		healthz, livez         int
		healthy, eligible, all bool
	}{
		{"starting", -1, -1, true, 200, 200, true, true, false},
		{"up to date", -1, time.Hour, true, 200, 200, true, true, true},
		{"a change waits", 59 * time.Second, time.Hour, true, 200, 200, true, true, true},
		{"a change waits for too long", time.Minute, time.Hour, true, 503, 503, false, true, true},
		{"nothing was ever written", time.Minute, -1, true, 503, 503, false, true, false},
		{"the node goes", -1, time.Hour, false, 503, 200, true, false, true},
		{"both", time.Minute, time.Hour, false, 503, 503, false, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				now := time.Now()
				ago := func(d time.Duration) time.Time {
					if d < 0 {
						return time.Time{}
					}
					return now.Add(-d)
				}
				counted := map[string]int{}
				p := &health.Proxy{
					State: func() health.State {
						return health.State{Pending: ago(tt.pending), Synced: ago(tt.synced), Node: tt.node}
					},
					Limit: time.Minute, Families: []service.Family{service.IPv4}, Count: func(path string, code int) { counted[path] = code },
				}
				mux := http.NewServeMux()
				p.Register(mux)
				for path, want := range map[string]int{"/healthz": tt.healthz, "/livez": tt.livez} {
					w := httptest.NewRecorder()
					mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
					var body struct {
						LastUpdated, CurrentTime time.Time
						NodeEligible             *bool
						Healthy                  bool
						Status                   map[string]struct {
							LastUpdated time.Time
							Healthy     bool
						}
					}
					if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
						t.Fatalf("%s: %v: %s", path, err, w.Body)
					}
					last := ago(tt.synced)
					if want == 200 {
						last = now
					}
					if w.Code != want || counted[path] != want || body.Healthy != tt.healthy || !body.CurrentTime.Equal(now) || !body.LastUpdated.Equal(last) {
						t.Errorf("%s: %d (counted %d) %s", path, w.Code, counted[path], w.Body)
					}
					if (body.NodeEligible != nil) != (path == "/healthz") || body.NodeEligible != nil && *body.NodeEligible != tt.eligible {
						t.Errorf("%s: %s", path, w.Body)
					}
					if f, ok := body.Status["IPv4"]; ok != tt.all || ok && (f.Healthy != tt.healthy || !f.LastUpdated.Equal(ago(tt.synced))) {
						t.Errorf("%s: status %+v", path, body.Status)
					}
				}
				if p.Healthy() != tt.healthy {
					t.Errorf("Healthy: %v", p.Healthy())
				}
			})
		})
	}
}

var lb = service.Name{Namespace: "ns", Name: "lb"}

// ask asks a health check port.
func ask(t *testing.T, l net.Listener) (code int, weight, body string) {
	t.Helper()
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + l.Addr().String() + "/")
	if err != nil {
		return 0, "", err.Error()
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("X-Load-Balancing-Endpoint-Weight"), string(data)
}

// listeners listens somewhere else than it is told, and fails when fault says so.
type listeners struct {
	asked []string
	last  net.Listener
	fault error
}

func (l *listeners) listen(network, address string) (net.Listener, error) {
	l.asked = append(l.asked, network+" "+address)
	if l.fault != nil {
		return nil, l.fault
	}
	var err error
	l.last, err = net.Listen("tcp", "127.0.0.1:0")
	return l.last, err
}

func TestServices(t *testing.T) {
	l := &listeners{}
	healthy := true
	s := health.NewServices(health.ServicesOptions{Healthy: func() bool { return healthy }, Listen: l.listen})
	defer s.Close()
	s.Set(lb, 31000, 2)
	if len(l.asked) != 1 || l.asked[0] != "tcp :31000" || s.Len() != 1 {
		t.Fatalf("listens on %v, %d open", l.asked, s.Len())
	}
	const body = "{\n\t\"service\": {\n\t\t\"namespace\": \"ns\",\n\t\t\"name\": \"lb\"\n\t},\n\t\"localEndpoints\": <n>,\n\t\"serviceProxyHealthy\": <h>\n}"
	check := func(code int, n, h string) {
		t.Helper()
		want := strings.NewReplacer("<n>", n, "<h>", h).Replace(body)
		if c, weight, got := ask(t, l.last); c != code || weight != n || got != want {
			t.Errorf("%d, weight %s, %s; want %d, %s", c, weight, got, code, want)
		}
	}
	check(200, "2", "true")
	s.Set(lb, 31000, 0)
	check(503, "0", "true")
	s.Set(lb, 31000, 1)
	healthy = false
	check(503, "1", "false")
	if len(l.asked) != 1 {
		t.Errorf("opened again: %v", l.asked)
	}
	before := l.last
	s.Set(lb, 31001, 1) // another port
	if code, _, _ := ask(t, before); code != 0 {
		t.Errorf("the old port answers %d", code)
	}
	healthy = true
	check(200, "1", "true")
	s.Set(lb, 0, 1)
	if code, _, _ := ask(t, l.last); code != 0 || s.Len() != 0 {
		t.Errorf("the closed port answers %d, %d open", code, s.Len())
	}
	s.Set(lb, 0, 0)
}

// TestServicesAddrs: the ports follow the node's addresses.
func TestServicesAddrs(t *testing.T) {
	l := &listeners{}
	addrs := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	s := health.NewServices(health.ServicesOptions{Listen: l.listen, Addrs: func() []netip.Addr { return addrs }})
	defer s.Close()
	s.Set(lb, 31000, 1)
	addrs = append(addrs[1:], netip.MustParseAddr("192.0.2.2"))
	s.Tick()
	s.Tick()
	if got, want := strings.Join(l.asked, ", "), "tcp 192.0.2.1:31000, tcp [2001:db8::1]:31000, tcp 192.0.2.2:31000"; got != want {
		t.Errorf("listened on %s, want %s", got, want)
	}
}

// TestServicesFail: a failure is told once, and tried again.
func TestServicesFail(t *testing.T) {
	l := &listeners{fault: errors.New("address already in use")}
	told := 0
	s := health.NewServices(health.ServicesOptions{Listen: l.listen, Failed: func(of service.Name, port uint16, err error) {
		told++
		if of != lb || port != 31000 || !errors.Is(err, l.fault) {
			t.Errorf("told %v %d %v", of, port, err)
		}
	}})
	defer s.Close()
	s.Set(lb, 31000, 1)
	s.Tick()
	if told != 1 || len(l.asked) != 2 || s.Len() != 0 {
		t.Errorf("told %d times after %d tries", told, len(l.asked))
	}
	l.fault = nil
	s.Tick()
	if code, _, _ := ask(t, l.last); code != 200 || s.Len() != 1 {
		t.Errorf("%d, %d open", code, s.Len())
	}
}
