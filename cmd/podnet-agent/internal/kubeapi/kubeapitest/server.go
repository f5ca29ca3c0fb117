// Package kubeapitest is a small API server for tests: Nodes in memory, served over HTTP/2 and TLS as kube-apiserver does (protobuf, pages, watches with
// bookmarks, 410 for what it has forgotten, strategic merge patches), with faults on request. What it does not model answers 404.
//
// Facts are those of kube-apiserver v1.36.3; where a test depends on one, the agent's tests on the real one (REQUIRE_KUBE=1) hold too.
//
// Concurrency: all methods may be called by many goroutines.
package kubeapitest

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

// Server is the API server.
type Server struct {
	HTTP *httptest.Server

	mu       sync.Mutex
	version  uint64
	oldest   uint64 // what a watch may begin with
	nodes    map[string]*corev1.Node
	history  []change
	more     chan struct{} // closed at the next change
	fail     func(*http.Request) *metav1.Status
	bookmark time.Duration
	events   []corev1.Event
	patches  []string
	requests []string
}

type change struct {
	version uint64
	kind    string
	object  []byte // protobuf, with envelope
}

// New starts a Server on the loopback device that ends with the test.
func New(t testing.TB) *Server { return NewOn(t, nil) }

// NewOn starts a Server on a listener, such as one in another network namespace.
func NewOn(t testing.TB, l net.Listener) *Server {
	s := startOn(l)
	t.Cleanup(s.Close)
	return s
}

// Start starts a Server that ends with Close.
func Start() *Server { return startOn(nil) }

func startOn(l net.Listener) *Server {
	s := &Server{version: 100, oldest: 100, nodes: map[string]*corev1.Node{}, more: make(chan struct{}), bookmark: time.Minute}
	s.HTTP = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.HTTP.EnableHTTP2 = true
	if l != nil {
		s.HTTP.Listener.Close()
		s.HTTP.Listener = l
	}
	s.HTTP.StartTLS()
	return s
}

// Close ends all connections and the Server.
func (s *Server) Close() {
	s.HTTP.CloseClientConnections()
	s.HTTP.Close()
}

// CA returns the certificate of the server's authority, PEM.
func (s *Server) CA() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.HTTP.Certificate().Raw})
}

// Config returns the configuration of a client.
func (s *Server) Config() *rest.Config {
	return &rest.Config{Host: s.HTTP.URL, BearerToken: "token", TLSClientConfig: rest.TLSClientConfig{CAData: s.CA(), ServerName: "example.com"}}
}

// Put adds or changes a Node, as its kubelet or an administrator would.
func (s *Server) Put(n *corev1.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(n.DeepCopy())
}

func (s *Server) put(n *corev1.Node) {
	kind := "MODIFIED"
	if s.nodes[n.Name] == nil {
		kind = "ADDED"
		if n.UID == "" {
			n.UID = types.UID(fmt.Sprintf("uid-%s-%d", n.Name, s.version))
		}
	} else if n.UID == "" {
		n.UID = s.nodes[n.Name].UID
	}
	s.nodes[n.Name] = n
	s.changed(kind, n)
}

// Delete removes a Node.
func (s *Server) Delete(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.nodes[name]; n != nil {
		delete(s.nodes, name)
		s.changed("DELETED", n)
	}
}

func (s *Server) changed(kind string, n *corev1.Node) {
	s.version++
	n.ResourceVersion = strconv.FormatUint(s.version, 10)
	s.history = append(s.history, change{s.version, kind, Encode("Node", n)})
	close(s.more)
	s.more = make(chan struct{})
}

// Node returns a Node, or nil.
func (s *Server) Node(name string) *corev1.Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.nodes[name]; n != nil {
		return n.DeepCopy()
	}
	return nil
}

// Fail has requests answered with a Status; nil from f: as usual.
func (s *Server) Fail(f func(*http.Request) *metav1.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = f
}

// Bookmarks sets how often watches get one.
func (s *Server) Bookmarks(every time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bookmark = every
}

// Forget makes all versions before now too old.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	s.oldest, s.history = s.version, nil
}

// Restore takes the Nodes and the version back to what they were, as etcd's restore from a backup does. The connections end, as they do then.
func (s *Server) Restore(version uint64, nodes ...*corev1.Node) {
	s.mu.Lock()
	s.version, s.oldest, s.history = version, version, nil
	clear(s.nodes)
	for _, n := range nodes {
		s.nodes[n.Name] = n.DeepCopy()
	}
	s.mu.Unlock()
	s.HTTP.CloseClientConnections()
}

// Version returns the version of the newest change.
func (s *Server) Version() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.version
}

// Events returns the Events that were written.
func (s *Server) Events() []corev1.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events)
}

// Patches returns the bodies of the patches of Nodes.
func (s *Server) Patches() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.patches)
}

// Requests returns method and URL of all requests.
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Encode returns an object as protobuf with its envelope.
func Encode(kind string, o interface{ Marshal() ([]byte, error) }) []byte {
	raw, err := o.Marshal()
	if err != nil {
		panic(err)
	}
	u := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: kind}, Raw: raw}
	data, err := u.Marshal()
	if err != nil {
		panic(err)
	}
	return append([]byte("k8s\x00"), data...)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, r.Method+" "+r.URL.RequestURI())
	fail := s.fail
	s.mu.Unlock()
	if fail != nil {
		if status := fail(r); status != nil {
			answerStatus(w, status)
			return
		}
	}
	name, isStatus := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/api/v1/nodes/"), "/status")
	switch {
	case r.Method == http.MethodGet && r.URL.Path == "/api/v1/nodes" && r.URL.Query().Get("watch") != "":
		s.watch(w, r)
	case r.Method == http.MethodGet && r.URL.Path == "/api/v1/nodes":
		s.list(w, r)
	case r.Method == http.MethodPatch && isStatus:
		s.patch(w, r, name)
	case r.Method == http.MethodPost && r.URL.Path == "/api/v1/namespaces/default/events":
		s.event(w, r, "")
	case r.Method == http.MethodPatch && strings.HasPrefix(r.URL.Path, "/api/v1/namespaces/default/events/"):
		s.event(w, r, strings.TrimPrefix(r.URL.Path, "/api/v1/namespaces/default/events/"))
	default:
		answerStatus(w, Status(404, "NotFound", "not here"))
	}
}

// Status returns a refusal.
func Status(code int32, reason metav1.StatusReason, message string) *metav1.Status {
	return &metav1.Status{Status: "Failure", Code: code, Reason: reason, Message: message}
}

func answerStatus(w http.ResponseWriter, s *metav1.Status) {
	if s.Details != nil && s.Details.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(s.Details.RetryAfterSeconds)))
	}
	answer(w, int(s.Code), Encode("Status", s))
}

func answer(w http.ResponseWriter, code int, body []byte) {
	w.Header().Set("Content-Type", "application/vnd.kubernetes.protobuf")
	w.WriteHeader(code)
	_, _ = w.Write(body)
}

func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
	version, after := s.version, ""
	if c := r.URL.Query().Get("continue"); c != "" {
		if _, err := fmt.Sscanf(c, "%d/%s", &version, &after); err != nil {
			answerStatus(w, Status(400, metav1.StatusReasonBadRequest, "continue"))
			return
		}
		if version < s.oldest {
			answerStatus(w, Status(410, metav1.StatusReasonExpired, "The provided continue parameter is too old"))
			return
		}
	}
	all := make([]*corev1.Node, 0, len(s.nodes))
	for _, n := range s.nodes {
		if n.Name > after {
			all = append(all, n)
		}
	}
	slices.SortFunc(all, func(a, b *corev1.Node) int { return cmp.Compare(a.Name, b.Name) })
	list := &corev1.NodeList{ListMeta: metav1.ListMeta{ResourceVersion: strconv.FormatUint(version, 10)}}
	for i, n := range all {
		if limit > 0 && i == limit {
			list.Continue = fmt.Sprintf("%d/%s", version, all[i-1].Name)
			break
		}
		list.Items = append(list.Items, *n)
	}
	answer(w, 200, Encode("NodeList", list))
}

func (s *Server) watch(w http.ResponseWriter, r *http.Request) {
	version, err := strconv.ParseUint(r.URL.Query().Get("resourceVersion"), 10, 64)
	s.mu.Lock()
	oldest, every := s.oldest, s.bookmark
	s.mu.Unlock()
	if err != nil || version < oldest {
		answerStatus(w, Status(410, metav1.StatusReasonExpired, "too old resource version"))
		return
	}
	seconds, _ := strconv.Atoi(r.URL.Query().Get("timeoutSeconds"))
	end := time.After(time.Duration(seconds) * time.Second)
	w.Header().Set("Content-Type", "application/vnd.kubernetes.protobuf;stream=watch")
	w.WriteHeader(200)
	flusher := w.(http.Flusher)
	flusher.Flush()
	bookmarks := time.NewTicker(every)
	defer bookmarks.Stop()
	for {
		s.mu.Lock()
		more := s.more
		var due []change
		for _, c := range s.history {
			if c.version > version {
				due = append(due, c)
			}
		}
		s.mu.Unlock()
		for _, c := range due {
			writeFrame(w, c.kind, c.object)
			version = c.version
		}
		flusher.Flush()
		select {
		case <-r.Context().Done():
			return
		case <-end:
			return
		case <-more:
		case <-bookmarks.C:
			n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{ResourceVersion: strconv.FormatUint(max(version, s.Version()), 10)}}
			writeFrame(w, "BOOKMARK", Encode("Node", n))
			flusher.Flush()
		}
	}
}

func writeFrame(w io.Writer, kind string, object []byte) {
	e := metav1.WatchEvent{Type: kind, Object: runtime.RawExtension{Raw: object}}
	data, err := e.Marshal()
	if err != nil {
		panic(err)
	}
	_, _ = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...))
}

func (s *Server) patch(w http.ResponseWriter, r *http.Request, name string) {
	body, err := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[name]
	if n == nil || err != nil {
		answerStatus(w, Status(404, metav1.StatusReasonNotFound, "nodes "+strconv.Quote(name)+" not found"))
		return
	}
	next := n.DeepCopy()
	if err := merge(next, body); err != nil {
		answerStatus(w, Status(400, metav1.StatusReasonBadRequest, err.Error()))
		return
	}
	if next.UID != n.UID {
		answerStatus(w, Status(409, metav1.StatusReasonConflict, "Precondition failed: UID in precondition"))
		return
	}
	s.patches = append(s.patches, string(body))
	s.put(next)
	answer(w, 200, Encode("Node", next))
}

// merge does what a strategic merge patch of nodes/status does with UID, annotations and conditions; it refuses others.
func merge(n *corev1.Node, patch []byte) error {
	var p struct {
		Metadata struct {
			UID         types.UID          `json:"uid"`
			Annotations map[string]*string `json:"annotations"`
		} `json:"metadata"`
		Status struct {
			Conditions []corev1.NodeCondition `json:"conditions"`
		} `json:"status"`
	}
	d := json.NewDecoder(bytes.NewReader(patch))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return err
	}
	if p.Metadata.UID != "" {
		n.UID = p.Metadata.UID
	}
	if n.Annotations == nil {
		n.Annotations = map[string]string{}
	}
	for key, value := range p.Metadata.Annotations {
		if value == nil {
			delete(n.Annotations, key)
		} else {
			n.Annotations[key] = *value
		}
	}
	for _, c := range p.Status.Conditions {
		i := slices.IndexFunc(n.Status.Conditions, func(o corev1.NodeCondition) bool { return o.Type == c.Type })
		if i < 0 {
			n.Status.Conditions = append(n.Status.Conditions, c)
			continue
		}
		if c.LastTransitionTime.IsZero() {
			c.LastTransitionTime = n.Status.Conditions[i].LastTransitionTime
		}
		n.Status.Conditions[i] = c
	}
	return nil
}

func (s *Server) event(w http.ResponseWriter, r *http.Request, name string) {
	body, err := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	var e corev1.Event
	if err == nil {
		err = json.Unmarshal(body, &e)
	}
	if err != nil {
		answerStatus(w, Status(400, metav1.StatusReasonBadRequest, err.Error()))
		return
	}
	if name == "" {
		s.events = append(s.events, e)
		answer(w, 201, Encode("Event", &e))
		return
	}
	for i := range s.events {
		if s.events[i].Name == name {
			s.events[i].Count = e.Count
			answer(w, 200, Encode("Event", &s.events[i]))
			return
		}
	}
	answerStatus(w, Status(404, metav1.StatusReasonNotFound, "events not found"))
}
