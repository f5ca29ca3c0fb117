package kubeapi

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Access says how to reach the API server.
type Access struct {
	Kubeconfig string // path; "" = this pod's service account
	Server     string // URL; "" = what the kubeconfig, or else the environment of the pod, says
	UserAgent  string
}

// keepAlive finds out within 35 s that a connection is dead where there are no HTTP/2 pings: HTTP/1.1.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 4}

// serviceAccount is where kubelets put a pod's credentials.
const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount/"

// Load reads the configuration. It asks nobody.
func (a Access) Load() (*rest.Config, error) {
	if a.Server != "" {
		if u, err := url.Parse(a.Server); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
			return nil, fmt.Errorf("server %q: want a URL such as https://192.168.1.10:6443", a.Server)
		}
	}
	var config *rest.Config
	var err error
	if a.Kubeconfig != "" {
		if config, err = clientcmd.BuildConfigFromFlags(a.Server, a.Kubeconfig); err != nil {
			return nil, fmt.Errorf("kubeconfig %q: %w", a.Kubeconfig, err)
		}
	} else if config, err = a.inCluster(); err != nil {
		return nil, err
	}
	config.UserAgent = a.UserAgent
	config.Timeout = 0 // watches last; each request has a time limit of its own
	config.Dial = (&net.Dialer{Timeout: 5 * time.Second, KeepAliveConfig: keepAlive}).DialContext
	return config, nil
}

// inCluster is rest.InClusterConfig, but for a server that is given by address: without kube-proxy, the one in the environment is not reached.
func (a Access) inCluster() (*rest.Config, error) {
	if _, err := os.Stat(serviceAccount + "token"); err != nil {
		return nil, errors.New("not in a pod (no service account token): name a kubeconfig")
	}
	server := a.Server
	if server == "" {
		host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
		if host == "" || port == "" {
			return nil, errors.New("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: name the API server")
		}
		server = "https://" + net.JoinHostPort(host, port)
	}
	return &rest.Config{Host: server, BearerTokenFile: serviceAccount + "token", TLSClientConfig: rest.TLSClientConfig{CAFile: serviceAccount + "ca.crt"}}, nil
}

// Names and values of the settings by which client-go's transport finds out that a connection is dead: by default after 30 + 15 s. It takes
// them from the environment only.
var pings = [][2]string{{"HTTP2_READ_IDLE_TIMEOUT_SECONDS", "20"}, {"HTTP2_PING_TIMEOUT_SECONDS", "10"}}

func setPings() {
	for _, p := range pings {
		if os.Getenv(p[0]) == "" {
			_ = os.Setenv(p[0], p[1])
		}
	}
}
