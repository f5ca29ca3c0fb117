package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/podnet/podnet/cmd/podnet-proxy/internal/proxyconfig"
)

// keepAlive finds out within 35 s that a connection is dead where there are no HTTP/2 pings: HTTP/1.1.
func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 4}
}

// serviceAccount is where kubelets put a pod's credentials.
const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount/"

// kubeConfig says how to reach the API server. It asks nobody.
func kubeConfig(k proxyconfig.Kubernetes) (*rest.Config, error) {
	setPings()
	var config *rest.Config
	var err error
	switch {
	case k.Kubeconfig != "":
		if config, err = clientcmd.BuildConfigFromFlags(k.Master, k.Kubeconfig); err != nil {
			return nil, fmt.Errorf("kubeconfig %q: %w", k.Kubeconfig, err)
		}
	default:
		if config, err = inCluster(k.Master); err != nil {
			return nil, err
		}
	}
	config.QPS, config.Burst = k.QPS, k.Burst
	config.UserAgent = "podnet-proxy/" + version
	config.Timeout = 0 // watches last
	config.Dial = (&net.Dialer{Timeout: 5 * time.Second, KeepAliveConfig: keepAlive()}).DialContext
	return config, nil
}

// inCluster is rest.InClusterConfig, but for a server that is given by address: its ClusterIP is reached through this very proxy.
func inCluster(master string) (*rest.Config, error) {
	_, err := os.Stat(serviceAccount + "token")
	switch {
	case err != nil && master == "":
		return nil, errors.New("no --kubeconfig, no --services, and no pod with a service account: say where Services come from")
	case err != nil:
		return &rest.Config{Host: master}, nil
	case master == "":
		host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
		if host == "" || port == "" {
			return nil, errors.New("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: want --master or --kubeconfig")
		}
		master = "https://" + net.JoinHostPort(host, port)
	}
	return &rest.Config{Host: master, BearerTokenFile: serviceAccount + "token", TLSClientConfig: rest.TLSClientConfig{CAFile: serviceAccount + "ca.crt"}}, nil
}

// setPings has client-go's transport find out sooner that a connection is dead; by default after 30 + 15 s. It takes the settings from the environment only.
func setPings() {
	for _, p := range [][2]string{{"HTTP2_READ_IDLE_TIMEOUT_SECONDS", "20"}, {"HTTP2_PING_TIMEOUT_SECONDS", "10"}} {
		if os.Getenv(p[0]) == "" {
			_ = os.Setenv(p[0], p[1])
		}
	}
}
