package kubeapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"
)

const (
	protobuf      = "application/vnd.kubernetes.protobuf"
	protobufWatch = protobuf + ";stream=watch"
)

// Time limits of one request.
const (
	requestTimeout = 15 * time.Second
	pageTimeout    = time.Minute
	answerTimeout  = 30 * time.Second // until a watch begins
)

// WatchIdle is how long a watch may be silent. The API server sends a bookmark about every minute.
const WatchIdle = 100 * time.Second

// errIdle is why a silent watch was ended.
var errIdle = fmt.Errorf("neither an event nor a bookmark for %v", WatchIdle)

// Client speaks to one API server.
type Client struct {
	http     *http.Client
	base     *url.URL
	prefix   string
	idle     time.Duration
	received atomic.Int64
}

// New returns a Client that reads annotations with a prefix ("" = none). It asks nobody.
func New(config *rest.Config, annotations string) (*Client, error) {
	setPings()
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	base, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, err
	}
	return &Client{http: client, base: base, prefix: annotations, idle: WatchIdle}, nil
}

// Server returns the server's URL.
func (c *Client) Server() string { return c.base.String() }

// Received returns how many bytes of Nodes have been read, decompressed.
func (c *Client) Received() int64 { return c.received.Load() }

// CloseIdle ends the connections that no request uses, so that the next goes to a server that is there.
func (c *Client) CloseIdle() { c.http.CloseIdleConnections() }

func (c *Client) url(query url.Values, path ...string) string {
	u := c.base.JoinPath(path...)
	u.RawQuery = query.Encode()
	return u.String()
}

// counted counts what is read.
type counted struct {
	r io.Reader
	n *atomic.Int64
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// do sends a request and returns the answer if it is a success.
func (c *Client) do(req *http.Request) (*http.Response, error) {
	answer, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode/100 == 2 {
		return answer, nil
	}
	defer answer.Body.Close()
	return nil, statusError(answer)
}

// statusError reads why a request was refused: a Status in protobuf or JSON, or the text of a proxy on the way.
func statusError(answer *http.Response) *StatusError {
	body, _ := io.ReadAll(io.LimitReader(answer.Body, 64<<10))
	e := &StatusError{}
	switch kind := answer.Header.Get("Content-Type"); {
	case strings.HasPrefix(kind, protobuf):
		if msg, err := unwrap(body); err == nil {
			if s, err := decodeStatusError(msg); err == nil {
				e = s
			}
		}
	case strings.HasPrefix(kind, "application/json"):
		var s struct {
			Message, Reason string
			Details         struct{ RetryAfterSeconds int64 }
		}
		if json.Unmarshal(body, &s) == nil {
			e.Message, e.Reason = clean(s.Message), clean(s.Reason)
			e.retryAfter(s.Details.RetryAfterSeconds)
		}
	default:
		e.Message = clean(strings.TrimSpace(string(body)))
	}
	e.Code = answer.StatusCode
	if e.Reason == "" {
		e.Reason = strings.ReplaceAll(http.StatusText(e.Code), " ", "")
	}
	if seconds, err := strconv.ParseInt(answer.Header.Get("Retry-After"), 10, 64); err == nil {
		e.retryAfter(seconds)
	}
	return e
}

// ListNodes calls add for each Node of one page. version "" asks for the newest state, continued for the next page of a list.
func (c *Client) ListNodes(ctx context.Context, limit int, continued string, add func(Node)) (ListMeta, error) {
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	if continued != "" {
		query.Set("continue", continued)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url(query, "api/v1/nodes"), nil)
	if err != nil {
		return ListMeta{}, err
	}
	req.Header.Set("Accept", protobuf)
	answer, err := c.do(req)
	if err != nil {
		return ListMeta{}, err
	}
	defer answer.Body.Close()
	if err := wantProtobuf(answer); err != nil {
		return ListMeta{}, err
	}
	reader := &listReader{r: bufio.NewReaderSize(counted{answer.Body, &c.received}, 4<<10), prefix: c.prefix}
	meta, err := reader.read(add)
	if err == nil && meta.ResourceVersion == "" {
		err = errors.New("a list without resourceVersion from the API server")
	}
	return meta, err
}

func wantProtobuf(answer *http.Response) error {
	if kind := answer.Header.Get("Content-Type"); !strings.HasPrefix(kind, protobuf) {
		return fmt.Errorf("the server answers with %q: want %s, as every Kubernetes API server does", clean(kind), protobuf)
	}
	return nil
}

// WatchNodes calls event for everything that happened since a version, until the server ends the watch, which it does about after timeout.
func (c *Client) WatchNodes(ctx context.Context, version string, timeout time.Duration, event func(Event)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(answerTimeout, func() { cancel(errIdle) })
	defer silence.Stop()
	query := url.Values{"watch": {"1"}, "resourceVersion": {version}, "allowWatchBookmarks": {"true"}, "timeoutSeconds": {strconv.Itoa(int(timeout / time.Second))}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url(query, "api/v1/nodes"), nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", protobufWatch)
	answer, err := c.do(req)
	if err != nil {
		return cause(ctx, err)
	}
	defer answer.Body.Close()
	if err := wantProtobuf(answer); err != nil {
		return err
	}
	silence.Reset(c.idle)
	event(Event{Type: Opened})
	r := bufio.NewReaderSize(counted{answer.Body, &c.received}, 16<<10)
	var buf []byte
	for {
		var head [4]byte
		if _, err := io.ReadFull(r, head[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return cause(ctx, err)
		}
		size := int(binary.BigEndian.Uint32(head[:]))
		if size > maxObject {
			return fmt.Errorf("an event of %d bytes: want at most %d", size, maxObject)
		}
		if cap(buf) < size {
			buf = make([]byte, size+size/4)
		}
		if _, err := io.ReadFull(r, buf[:size]); err != nil {
			return cause(ctx, orMalformed(err))
		}
		silence.Reset(c.idle)
		e, err := decodeEvent(buf[:size], c.prefix)
		if err != nil {
			return err
		}
		event(e)
	}
}

// cause says why a context ended, not only that it did.
func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil && ctx.Err() != nil {
		return c
	}
	return err
}

// PatchNodeStatus patches metadata and status of a Node by its status subresource, and returns what it is then.
func (c *Client) PatchNodeStatus(ctx context.Context, name string, patch any) (Node, error) {
	body, err := c.send(ctx, http.MethodPatch, "application/strategic-merge-patch+json", patch, protobuf, "api/v1/nodes", name, "status")
	if err != nil {
		return Node{}, err
	}
	msg, err := unwrap(body)
	if err != nil {
		return Node{}, err
	}
	return decodeNode(msg, c.prefix)
}

// CreateEvent makes a core/v1 Event.
func (c *Client) CreateEvent(ctx context.Context, namespace string, event any) error {
	_, err := c.send(ctx, http.MethodPost, "application/json", event, protobuf, "api/v1/namespaces", namespace, "events")
	return err
}

// PatchEvent changes one, to count a repetition.
func (c *Client) PatchEvent(ctx context.Context, namespace, name string, patch any) error {
	_, err := c.send(ctx, http.MethodPatch, "application/strategic-merge-patch+json", patch, protobuf, "api/v1/namespaces", namespace, "events", name)
	return err
}

func (c *Client) send(ctx context.Context, method, kind string, content any, accept string, path ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	data, err := json.Marshal(content)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, c.url(nil, path...), bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", kind)
	req.Header.Set("Accept", accept)
	answer, err := c.do(req)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	return io.ReadAll(io.LimitReader(answer.Body, maxObject))
}
