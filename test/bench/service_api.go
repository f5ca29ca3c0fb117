package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// apiServer is what a proxy needs of an API server: lists and watches in protobuf, and a place for Events. What it sends first is encoded before anybody asks, so that it costs a proxy
// no more than a copy.
type apiServer struct {
	http      *http.Server
	mu        sync.Mutex
	version   int
	resources map[string]*resource // by path
	unknown   map[string]bool      // what was asked for and is not here
}

// resource is one kind of object. version and history are of the whole run; the first objects are never held apart from their encodings.
type resource struct {
	apiVersion, kind string
	first            *encoded
	history          []event
	more             chan struct{} // closed at the next event
	sent             time.Time     // when the last of the first objects was written to a client
}

// encoded are objects in the two forms in which a client may ask for them. It is shared by all servers of one dataset.
type encoded struct {
	count  int
	items  []item // of the list
	stream []byte // watch frames
}

// item is an object of a list, with its field number and length before it.
type item struct {
	name string
	data []byte
}

type event struct {
	version int
	frame   []byte
	item    item
}

type object interface {
	Marshal() ([]byte, error)
	GetName() string
}

// envelope makes what Kubernetes calls protobuf: a magic number and the kind before the message.
func envelope(apiVersion, kind string, raw []byte) []byte {
	u := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: apiVersion, Kind: kind}, Raw: raw}
	data, err := u.Marshal()
	if err != nil {
		panic(err) // into memory
	}
	return append([]byte("k8s\x00"), data...)
}

func frame(kind string, object []byte) []byte {
	e := metav1.WatchEvent{Type: kind, Object: runtime.RawExtension{Raw: object}}
	data, err := e.Marshal()
	if err != nil {
		panic(err)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...)
}

func mustMarshal(o interface{ Marshal() ([]byte, error) }) []byte {
	data, err := o.Marshal()
	if err != nil {
		panic(err)
	}
	return data
}

// encode encodes n objects.
func encode(apiVersion, kind string, n int, object func(i int) object) *encoded {
	e := &encoded{count: n}
	for i := range n {
		o := object(i)
		raw := mustMarshal(o)
		e.items = append(e.items, item{o.GetName(), field(2, raw)})
		e.stream = append(e.stream, frame("ADDED", envelope(apiVersion, kind, raw))...)
	}
	return e
}

// field is a protobuf field of bytes.
func field(number byte, data []byte) []byte {
	b := binary.AppendUvarint([]byte{number<<3 | 2}, uint64(len(data)))
	return append(b, data...)
}

// bookmarkEvery is what kube-apiserver does: clients take a watch without for dead.
const bookmarkEvery = time.Minute

const (
	servicesPath = "/api/v1/services"
	slicesPath   = "/apis/discovery.k8s.io/v1/endpointslices"
)

// world is a dataset, encoded.
type world struct {
	dataset
	services, slices, nodes, ranges *encoded
}

func newWorld(d dataset) *world {
	return &world{d,
		encode("v1", "Service", d.services, func(i int) object { return d.service(i) }),
		encode("discovery.k8s.io/v1", "EndpointSlice", d.services*d.slices(), func(i int) object { return d.slice(i/d.slices(), i%d.slices()) }),
		encode("v1", "Node", 1, func(int) object { return node() }),
		encode("networking.k8s.io/v1", "ServiceCIDR", 1, func(int) object { return serviceRange() }),
	}
}

// serveAPI starts a server on a listener; it ends with Close.
func serveAPI(w *world, l net.Listener) *apiServer {
	kind := func(apiVersion, kind string, e *encoded) *resource {
		return &resource{apiVersion: apiVersion, kind: kind, first: e, more: make(chan struct{})}
	}
	s := &apiServer{version: 1, unknown: map[string]bool{}, resources: map[string]*resource{
		servicesPath:    kind("v1", "Service", w.services),
		slicesPath:      kind("discovery.k8s.io/v1", "EndpointSlice", w.slices),
		"/api/v1/nodes": kind("v1", "Node", w.nodes),
		"/apis/networking.k8s.io/v1/servicecidrs": kind("networking.k8s.io/v1", "ServiceCIDR", w.ranges),
	}}
	s.http = &http.Server{Handler: http.HandlerFunc(s.serve), ReadHeaderTimeout: time.Minute}
	go func() { _ = s.http.Serve(l) }()
	return s
}

func (s *apiServer) close() error { return s.http.Close() }

// modify tells the watchers of a changed object, whose version it sets. It returns when they were told of it.
func (s *apiServer) modify(path string, o interface {
	object
	metav1.Object
}) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.resources[path]
	s.version++
	o.SetResourceVersion(strconv.Itoa(s.version))
	raw := mustMarshal(o)
	r.history = append(r.history, event{s.version, frame("MODIFIED", envelope(r.apiVersion, r.kind, raw)), item{o.GetName(), field(2, raw)}})
	close(r.more)
	r.more = make(chan struct{})
	return time.Now()
}

// listed returns when the last Service and EndpointSlice was written to the client, and whether that is so.
func (s *apiServer) listed() (last time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, path := range []string{servicesPath, slicesPath} {
		at := s.resources[path].sent
		if at.IsZero() {
			return last, false
		}
		if at.After(last) {
			last = at
		}
	}
	return last, true
}

func (s *apiServer) sent(r *resource) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.sent.IsZero() {
		r.sent = time.Now()
	}
}

func (s *apiServer) serve(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodGet {
		s.accept(w, req)
		return
	}
	path, name := req.URL.Path, ""
	if rest, ok := strings.CutPrefix(path, "/api/v1/nodes/"); ok {
		path, name = "/api/v1/nodes", rest
	}
	r := s.resources[path]
	if r == nil {
		s.refuse(w, req)
		return
	}
	if !strings.Contains(req.Header.Get("Accept"), "application/vnd.kubernetes.protobuf") {
		http.Error(w, "only protobuf", http.StatusNotAcceptable)
		return
	}
	switch q := req.URL.Query(); {
	case name != "":
		w.Header().Set("Content-Type", "application/vnd.kubernetes.protobuf")
		_, _ = w.Write(envelope("v1", "Node", mustMarshal(node())))
	case q.Get("watch") == "true" || q.Get("watch") == "1":
		s.watch(w, req, r)
	default:
		s.list(w, r)
	}
}

// accept takes Events and forgets them; it answers with what was sent.
func (s *apiServer) accept(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil || !strings.Contains(req.URL.Path, "/events") {
		s.refuse(w, req)
		return
	}
	w.Header().Set("Content-Type", req.Header.Get("Content-Type"))
	w.WriteHeader(http.StatusCreated)
	_, _ = w.Write(body)
}

func (s *apiServer) refuse(w http.ResponseWriter, req *http.Request) {
	s.mu.Lock()
	s.unknown[req.Method+" "+req.URL.Path] = true
	s.mu.Unlock()
	status := metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonNotFound, Code: http.StatusNotFound, Message: "not in this server"}
	w.Header().Set("Content-Type", "application/vnd.kubernetes.protobuf")
	w.WriteHeader(http.StatusNotFound)
	_, _ = w.Write(envelope("v1", "Status", mustMarshal(&status)))
}

// list answers with the objects as they are now.
func (s *apiServer) list(w http.ResponseWriter, r *resource) {
	s.mu.Lock()
	version, changed := s.version, map[string][]byte{}
	for _, e := range r.history {
		changed[e.item.name] = e.item.data
	}
	s.mu.Unlock()
	raw := field(1, mustMarshal(&metav1.ListMeta{ResourceVersion: strconv.Itoa(version)}))
	for _, i := range r.first.items {
		if now := changed[i.name]; now != nil {
			raw = append(raw, now...)
		} else {
			raw = append(raw, i.data...)
		}
	}
	w.Header().Set("Content-Type", "application/vnd.kubernetes.protobuf")
	_, _ = w.Write(envelope(r.apiVersion, r.kind+"List", raw))
	s.sent(r)
}

// watch streams what happens, and before it, when the client asks so (client-go does, since 1.35), the first objects.
func (s *apiServer) watch(w http.ResponseWriter, req *http.Request, r *resource) {
	q := req.URL.Query()
	version, _ := strconv.Atoi(q.Get("resourceVersion"))
	w.Header().Set("Content-Type", "application/vnd.kubernetes.protobuf;stream=watch")
	w.WriteHeader(http.StatusOK)
	send := func(data []byte) error {
		_, err := w.Write(data)
		return errors.Join(err, http.NewResponseController(w).Flush())
	}
	if q.Get("sendInitialEvents") == "true" {
		s.mu.Lock()
		var since []byte
		version = s.version
		for _, e := range r.history {
			since = append(since, e.frame...)
		}
		s.mu.Unlock()
		if send(r.first.stream) != nil || send(append(since, bookmark(r, version, true)...)) != nil {
			return
		}
		s.sent(r)
	} else if send(nil) != nil {
		return
	}
	bookmarks := time.NewTicker(bookmarkEvery)
	defer bookmarks.Stop()
	for {
		s.mu.Lock()
		more := r.more
		var due []byte
		for _, e := range r.history {
			if e.version > version {
				due, version = append(due, e.frame...), e.version
			}
		}
		s.mu.Unlock()
		if len(due) > 0 && send(due) != nil {
			return
		}
		select {
		case <-req.Context().Done():
			return
		case <-more:
		case <-bookmarks.C:
			if send(bookmark(r, version, false)) != nil {
				return
			}
		}
	}
}

// bookmark is an object of the kind with nothing but a version; initial says that all that was there at first has been sent. An empty message of any kind with metadata has the
// same encoding: field 1.
func bookmark(r *resource, version int, initial bool) []byte {
	meta := metav1.ObjectMeta{ResourceVersion: strconv.Itoa(version)}
	if initial {
		meta.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
	}
	return frame("BOOKMARK", envelope(r.apiVersion, r.kind, field(1, mustMarshal(&meta))))
}

// missing says what clients asked for in vain.
func (s *apiServer) missing() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for what := range s.unknown {
		all = append(all, what)
	}
	slices.Sort(all)
	return fmt.Sprint(all)
}
