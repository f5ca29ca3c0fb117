package controlplane

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/podnet/podnet/internal/netns"
)

// Client sends requests to the API server as one user.
type Client struct {
	http  *http.Client
	url   string
	token string
}

// Client returns a client with a token, or an anonymous one if the token is "".
func (c *ControlPlane) Client(token string) *Client {
	return &Client{http: &http.Client{Transport: c.transport.api}, url: c.URL(), token: token}
}

// Admin returns a client that may do everything.
func (c *ControlPlane) Admin() *Client { return c.Client(c.users[Admin].Token) }

// UserToken returns the static token of Admin or one of Config.Users, or "" if there is no such user.
func (c *ControlPlane) UserToken(user string) string { return c.users[user].Token }

// StatusError is a refusal by the API server.
type StatusError struct {
	Op      string // "PATCH /api/v1/nodes/a"
	Code    int    // of HTTP
	Reason  string // Kubernetes' word for it: NotFound, Forbidden, Conflict, Expired, ...
	Message string
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s: %d %s: %s", e.Op, e.Code, e.Reason, e.Message)
}

// Do sends one request. In, if not nil, is sent as JSON, for PATCH as a JSON merge patch; the answer is decoded into out, if not nil.
// A refusal is a [*StatusError].
func (c *Client) Do(ctx context.Context, method, path string, in, out any) error {
	op := method + " " + path
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
		if method == http.MethodPatch {
			req.Header.Set("Content-Type", "application/merge-patch+json")
		}
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	if resp.StatusCode >= 400 {
		refusal := &StatusError{Op: op, Code: resp.StatusCode}
		if err := json.Unmarshal(data, refusal); err != nil { // not every refusal is a Status
			refusal.Message = string(data)
		}
		return refusal
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return nil
}

// TokenRequest says what token of a service account to make.
type TokenRequest struct {
	Namespace, ServiceAccount string
	// Pod or Node, if set, is the object that the token is bound to: it is good only while the object exists. Either gives the token the name of the node,
	// which admission policies see as userInfo.extra["authentication.kubernetes.io/node-name"].
	Pod, Node string
	Seconds   int64 // how long the token is good, 600 at least; 0 is an hour
}

// Token makes a token of a service account, as kubelet does for a pod.
func (c *ControlPlane) Token(ctx context.Context, r TokenRequest) (string, error) {
	if r.Pod != "" && r.Node != "" {
		return "", errors.New("a token is bound to a Pod or to a Node, not to both")
	}
	spec := map[string]any{}
	if r.Seconds != 0 {
		spec["expirationSeconds"] = r.Seconds
	}
	bind := func(kind, path, name string) error {
		var object struct {
			Metadata struct{ UID string }
		}
		if err := c.Admin().Do(ctx, http.MethodGet, path+url.PathEscape(name), nil, &object); err != nil {
			return err
		}
		spec["boundObjectRef"] = map[string]string{"apiVersion": "v1", "kind": kind, "name": name, "uid": object.Metadata.UID}
		return nil
	}
	namespace := "/api/v1/namespaces/" + url.PathEscape(r.Namespace)
	var err error
	switch {
	case r.Pod != "":
		err = bind("Pod", namespace+"/pods/", r.Pod)
	case r.Node != "":
		err = bind("Node", "/api/v1/nodes/", r.Node)
	}
	if err != nil {
		return "", err
	}
	var made struct {
		Status struct{ Token string }
	}
	err = c.Admin().Do(ctx, http.MethodPost, namespace+"/serviceaccounts/"+url.PathEscape(r.ServiceAccount)+"/token", map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec,
	}, &made)
	return made.Status.Token, err
}

// Kubeconfig says who asks where.
type Kubeconfig struct {
	Server    string // "" is URL()
	Token     string
	TokenFile string // instead of Token: clients read it again every minute, as in a pod
}

// WriteKubeconfig writes a kubeconfig with the cluster's authority in it.
func (c *ControlPlane) WriteKubeconfig(path string, k Kubeconfig) error {
	ca, err := os.ReadFile(c.keys.ca)
	if err != nil {
		return err
	}
	if k.Server == "" {
		k.Server = c.URL()
	}
	user := map[string]string{"token": k.Token}
	if k.TokenFile != "" {
		user = map[string]string{"tokenFile": k.TokenFile}
	}
	type named map[string]any
	const name = "podnet"
	data, err := json.MarshalIndent(map[string]any{ // every reader of kubeconfigs reads YAML, and JSON is YAML
		"apiVersion": "v1", "kind": "Config", "current-context": name,
		"clusters": []named{{"name": name, "cluster": map[string]any{"server": k.Server, "certificate-authority-data": ca}}},
		"users":    []named{{"name": name, "user": user}},
		"contexts": []named{{"name": name, "context": map[string]string{"cluster": name, "user": name}}},
	}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o600)
}

// Kubectl runs kubectl as Admin and returns what it prints. Stdin may be nil.
func (c *ControlPlane) Kubectl(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	kubeconfig := c.path("admin.kubeconfig")
	if err := c.WriteKubeconfig(kubeconfig, Kubeconfig{Token: c.users[Admin].Token}); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(c.config.Binaries, "kubectl"), args...)
	cmd.Env = []string{"KUBECONFIG=" + kubeconfig, "HOME=" + c.dir.path, "PATH=" + os.Getenv("PATH")} // HOME: it keeps caches there
	cmd.Stdin = stdin
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	run := cmd.Run
	if c.config.Netns != "" {
		run = func() error { return netns.Do(c.config.Netns, cmd.Run) }
	}
	if err := run(); err != nil {
		return stdout.Bytes(), fmt.Errorf("kubectl %q: %w: %s", args, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}
