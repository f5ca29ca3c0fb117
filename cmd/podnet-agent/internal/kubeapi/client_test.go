package kubeapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/kubeapi/kubeapitest"
)

const prefix = "flannel.alpha.coreos.com/"

func client(t *testing.T, config *rest.Config) *Client {
	t.Helper()
	c, err := New(config, prefix)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdle)
	return c
}

func TestListPages(t *testing.T) {
	s := kubeapitest.New(t)
	for i := range 1203 {
		s.Put(kubeapitest.Fill(kubeapitest.Node(fmt.Sprintf("node-%04d", i), i, []string{fmt.Sprintf("10.%d.%d.0/24", i>>8, i&255)}, []string{"192.168.0.1"})))
	}
	c := client(t, s.Config())
	var names []string
	var pages []int
	for continued := ""; ; {
		n := 0
		meta, err := c.ListNodes(t.Context(), 500, continued, func(node Node) {
			n++
			names = append(names, node.Name)
			if len(node.PodCIDRs) != 1 || len(node.Addresses) != 1 || node.UID == "" || node.Created == 0 || node.ResourceVersion == "" || len(node.Annotations) != 0 {
				t.Fatalf("%+v", node)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, n)
		if continued = meta.Continue; continued == "" {
			break
		}
	}
	if diff := cmp.Diff([]int{500, 500, 203}, pages); diff != "" || len(names) != 1203 {
		t.Errorf("%d names, pages %v", len(names), pages)
	}
	if c.Received() < 1203*4000 {
		t.Errorf("received %d bytes", c.Received())
	}
}

// TestDecodeNode compares with the generated code.
func TestDecodeNode(t *testing.T) {
	n := kubeapitest.Fill(kubeapitest.Node("a", 7, []string{"10.244.1.0/24", "fd00:244::/64"}, []string{"192.168.1.1", "fd00::1"}))
	n.Annotations[prefix+"backend-type"] = "vxlan"
	n.Annotations[prefix+"huge"] = strings.Repeat("x", 256<<10)
	n.ResourceVersion = "42"
	n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: "Hostname", Address: "a"}, corev1.NodeAddress{Type: "ExternalIP", Address: "203.0.113.1"})
	n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: "NetworkUnavailable", Status: "True", Reason: "NoRouteCreated", Message: "m"})
	msg, err := unwrap(kubeapitest.Encode("Node", n))
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeNode(msg, prefix)
	if err != nil {
		t.Fatal(err)
	}
	want := Node{Name: "a", UID: "uid-007-a", ResourceVersion: "42", Created: 1790000007,
		Annotations: map[string]string{prefix + "backend-type": "vxlan", prefix + "huge": strings.Repeat("x", maxAnnotation)},
		PodCIDRs:    []string{"10.244.1.0/24", "fd00:244::/64"},
		Addresses:   []Address{{InternalIP, "192.168.1.1"}, {InternalIP, "fd00::1"}, {ExternalIP, "203.0.113.1"}},
		Network:     Condition{"True", "NoRouteCreated", "m"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	js, _ := json.Marshal(n)
	t.Logf("%d bytes of JSON, %d of protobuf", len(js)-256<<10, len(msg)-256<<10)
	for i := range msg { // no piece of it makes a panic
		_, _ = decodeNode(msg[:i%2000], prefix)
	}
}

func FuzzDecode(f *testing.F) {
	n := kubeapitest.Node("a", 7, []string{"10.244.1.0/24"}, []string{"192.168.1.1"})
	n.Annotations[prefix+"x"] = "y"
	object := kubeapitest.Encode("Node", n)
	f.Add(object)
	f.Add(kubeapitest.Encode("NodeList", &corev1.NodeList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}, Items: []corev1.Node{*n}}))
	e, _ := (&metav1.WatchEvent{Type: "ADDED"}).Marshal()
	f.Add(e)
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = decodeEvent(data, prefix)
		if msg, err := unwrap(data); err == nil {
			_, _ = decodeNode(msg, prefix)
			_, _ = decodeStatusError(msg)
		}
		_, _ = (&listReader{r: newReader(data), prefix: prefix}).read(func(Node) {})
	})
}

// A list that is cut off is no list: the nodes that are missing are not gone.
func TestListCut(t *testing.T) {
	list := &corev1.NodeList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}}
	for i := range 20 {
		list.Items = append(list.Items, *kubeapitest.Node(fmt.Sprint("node-", i), i, nil, nil))
	}
	whole := kubeapitest.Encode("NodeList", list)
	for n := range whole {
		if _, err := (&listReader{r: newReader(whole[:n])}).read(func(Node) {}); err == nil && n < len(whole)-4 {
			t.Fatalf("%d of %d bytes make a list", n, len(whole))
		}
	}
	count := 0
	if _, err := (&listReader{r: newReader(whole)}).read(func(Node) { count++ }); err != nil || count != 20 {
		t.Errorf("%d nodes, %v", count, err)
	}
}

func TestWatch(t *testing.T) {
	s := kubeapitest.New(t)
	s.Bookmarks(50 * time.Millisecond)
	c := client(t, s.Config())
	ctx, cancel := context.WithCancel(t.Context())
	events := make(chan Event, 100)
	var wg sync.WaitGroup
	wg.Go(func() {
		err := c.WatchNodes(ctx, fmt.Sprint(s.Version()), time.Minute, func(e Event) { events <- e })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	})
	defer wg.Wait()
	defer cancel()
	next := func(kind, name string) {
		t.Helper()
		for {
			select {
			case e := <-events:
				if e.Type == "BOOKMARK" && kind != "BOOKMARK" {
					continue
				}
				if e.Type != kind || e.Node.Name != name || kind != Opened && e.Node.ResourceVersion == "" {
					t.Fatalf("%+v, want %s %s", e, kind, name)
				}
				return
			case <-time.After(5 * time.Second):
				t.Fatalf("no %s of %s", kind, name)
			}
		}
	}
	next(Opened, "")
	s.Put(kubeapitest.Node("a", 1, nil, nil))
	next("ADDED", "a")
	s.Put(kubeapitest.Node("a", 1, []string{"10.0.0.0/24"}, nil))
	next("MODIFIED", "a")
	s.Delete("a")
	next("DELETED", "a")
	next("BOOKMARK", "")
}

func TestWatchEnds(t *testing.T) {
	s := kubeapitest.New(t)
	c := client(t, s.Config())
	if err := c.WatchNodes(t.Context(), fmt.Sprint(s.Version()), time.Second, func(Event) {}); err != nil {
		t.Errorf("a watch at its end: %v", err)
	}
	s.Forget()
	var status *StatusError
	if err := c.WatchNodes(t.Context(), "100", time.Second, func(Event) {}); !errors.As(err, &status) || !status.Gone() {
		t.Errorf("a watch from too old a version: %v", err)
	}
	c.idle = 50 * time.Millisecond
	if err := c.WatchNodes(t.Context(), fmt.Sprint(s.Version()), time.Minute, func(Event) {}); !errors.Is(err, errIdle) {
		t.Errorf("a silent watch: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	s := kubeapitest.New(t)
	c := client(t, s.Config())
	for _, tt := range []struct {
		answer *metav1.Status
		want   string
		wait   time.Duration
	}{
		{kubeapitest.Status(403, "Forbidden", `nodes is forbidden: User "x" cannot list`), `403 Forbidden: nodes is forbidden: User "x" cannot list`, 0},
		{&metav1.Status{Code: 429, Reason: "TooManyRequests", Message: "later", Details: &metav1.StatusDetails{RetryAfterSeconds: 7}}, "429 TooManyRequests: later", 7 * time.Second},
		{&metav1.Status{Code: 503, Message: "x\ny\x1b[0m", Details: &metav1.StatusDetails{RetryAfterSeconds: 99999}}, "503 ServiceUnavailable: x y [0m", maxWait},
	} {
		s.Fail(func(*http.Request) *metav1.Status { return tt.answer })
		_, err := c.ListNodes(t.Context(), 1, "", func(Node) {})
		var status *StatusError
		if !errors.As(err, &status) || err.Error() != tt.want || status.Wait != tt.wait {
			t.Errorf("%v, wait %v; want %s, %v", err, status.Wait, tt.want, tt.wait)
		}
	}
}

// Proxies and other servers answer in their own way.
func TestStrangers(t *testing.T) {
	var code int
	var kind, body string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}))
	defer s.Close()
	c := client(t, &rest.Config{Host: s.URL})
	for _, tt := range []struct {
		code             int
		kind, body, want string
	}{
		{502, "text/html", "<html>bad\ngateway", "502 BadGateway: <html>bad gateway"},
		{401, "application/json", `{"kind":"Status","message":"Unauthorized","reason":"Unauthorized","code":401}`, "401 Unauthorized: Unauthorized"},
		{500, "application/json", "{", "500 InternalServerError: no message"},
		{500, "application/vnd.kubernetes.protobuf", "rubbish", "500 InternalServerError: no message"},
		{200, "application/json", "{}", `the server answers with "application/json": want application/vnd.kubernetes.protobuf, as every Kubernetes API server does`},
		{200, "application/vnd.kubernetes.protobuf", "", errMalformed.Error()},
		{200, "application/vnd.kubernetes.protobuf", "k8s\x00\x12\xff\xff\xff\xff\xff\x7f", errMalformed.Error()},
		{200, "application/vnd.kubernetes.protobuf", "k8s\x00\x12\x08\x12\xff\xff\xff\x07aaa", "an object of 16777215 bytes: want at most 8388608"},
	} {
		code, kind, body = tt.code, tt.kind, tt.body
		_, err := c.ListNodes(t.Context(), 1, "", func(Node) {})
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) && !errors.Is(err, errMalformed) {
			t.Errorf("%v, want %s", err, tt.want)
		}
		kind += ";stream=watch"
		if err := c.WatchNodes(t.Context(), "1", time.Second, func(Event) {}); err == nil && body != "" {
			t.Errorf("%+v is a watch", tt)
		}
	}
}

// TestHalfOpen: the connection stays, but nothing comes through any more.
func TestHalfOpen(t *testing.T) {
	t.Setenv(pings[0][0], "1") // 20 s and 10 s otherwise
	t.Setenv(pings[1][0], "1")
	s := kubeapitest.New(t)
	proxy := newProxy(t, s.HTTP.Listener.Addr().String())
	config := s.Config()
	config.Host = "https://" + proxy.addr
	config.Dial = (&net.Dialer{}).DialContext // client-go shares transports that are configured alike
	c := client(t, config)
	opened := make(chan bool, 1)
	done := make(chan error, 1)
	go func() {
		done <- c.WatchNodes(t.Context(), fmt.Sprint(s.Version()), time.Minute, func(Event) { opened <- true })
	}()
	<-opened
	proxy.stop()
	start := time.Now()
	select {
	case err := <-done:
		if err == nil {
			t.Error("no error")
		}
		t.Logf("given up after %v: %v", time.Since(start).Round(10*time.Millisecond), err)
	case <-time.After(10 * time.Second):
		t.Fatal("not noticed")
	}
}

// proxy passes bytes on until it is stopped; connections stay open then.
type proxy struct {
	addr string
	mu   sync.RWMutex
	halt bool
}

func newProxy(t *testing.T, to string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: l.Addr().String()}
	var conns []net.Conn
	var wg sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		p.mu.Unlock()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			p.mu.Lock()
			conns = append(conns, in, out)
			p.mu.Unlock()
			wg.Go(func() { p.pass(in, out) })
			wg.Go(func() { p.pass(out, in) })
		}
	})
	return p
}

func (p *proxy) pass(from, to net.Conn) {
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		if err != nil {
			to.Close()
			return
		}
		p.mu.RLock()
		halt := p.halt
		p.mu.RUnlock()
		if !halt {
			_, _ = to.Write(buf[:n])
		}
	}
}

func (p *proxy) stop() {
	p.mu.Lock()
	p.halt = true
	p.mu.Unlock()
}

func TestPatch(t *testing.T) {
	s := kubeapitest.New(t)
	s.Put(kubeapitest.Node("a", 1, []string{"10.0.0.0/24"}, nil))
	c := client(t, s.Config())
	n, err := c.PatchNodeStatus(t.Context(), "a", map[string]any{"metadata": map[string]any{"annotations": map[string]any{prefix + "x": "y"}},
		"status": map[string]any{"conditions": []any{map[string]any{"type": "NetworkUnavailable", "status": "False", "reason": "r"}}}})
	if err != nil || n.Annotations[prefix+"x"] != "y" || n.Network != (Condition{"False", "r", ""}) || n.ResourceVersion == "" {
		t.Errorf("%+v, %v", n, err)
	}
	if _, err := c.PatchNodeStatus(t.Context(), "b", map[string]any{}); err == nil || !strings.HasPrefix(err.Error(), "404 NotFound") {
		t.Error(err)
	}
	if err := c.CreateEvent(t.Context(), "default", map[string]any{"metadata": map[string]any{"name": "e"}, "reason": "R"}); err != nil || len(s.Events()) != 1 {
		t.Error(err)
	}
	if err := c.PatchEvent(t.Context(), "default", "e", map[string]any{"count": 2}); err != nil || s.Events()[0].Count != 2 {
		t.Error(err)
	}
}

func TestAccess(t *testing.T) {
	for _, tt := range []struct {
		a    Access
		want string
	}{
		{Access{Kubeconfig: "/nowhere"}, `kubeconfig "/nowhere":`},
		{Access{Server: "10.0.0.1:6443"}, `server "10.0.0.1:6443": want a URL such as`},
		{Access{Server: "ftp://x"}, `server "ftp://x": want a URL such as`},
		{Access{}, "not in a pod"},
	} {
		if _, err := tt.a.Load(); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %s", tt.a, err, tt.want)
		}
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	const text = `{"apiVersion":"v1","kind":"Config","current-context":"x","clusters":[{"name":"x","cluster":{"server":"https://10.96.0.1"}}],
		"users":[{"name":"x","user":{"token":"t"}}],"contexts":[{"name":"x","context":{"cluster":"x","user":"x"}}]}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for server, want := range map[string]string{"": "https://10.96.0.1", "https://192.168.1.10:6443": "https://192.168.1.10:6443"} {
		config, err := Access{Kubeconfig: path, Server: server}.Load()
		if err != nil || config.Host != want || config.BearerToken != "t" {
			t.Errorf("%+v, %v", config, err)
		}
	}
}

func newReader(data []byte) *bufio.Reader { return bufio.NewReader(bytes.NewReader(data)) }
