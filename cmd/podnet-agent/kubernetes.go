package main

import (
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/spf13/pflag"
	"k8s.io/client-go/rest"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/agent"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/flannel"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/kubeapi"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/kubenode"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/nodefile"
)

// stateFile is the file in the state directory with the last nodes that Kubernetes told.
const stateFile = "nodes.json"

// kubeOptions are the command line of the Kubernetes source.
type kubeOptions struct {
	kubeconfig string
	server     string
	prefix     string
	condition  bool

	config *rest.Config // what kubeconfig and server say
	keys   flannel.Keys
}

func (k *kubeOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&k.kubeconfig, "kubeconfig", "", "`path` of the kubeconfig; without it and without --nodes: the service account of the pod that the agent runs in")
	f.StringVar(&k.server, "api-server", "", "`URL` of the API server, for nodes that do not reach its Service (no kube-proxy); default: what kubeconfig or pod say")
	f.StringVar(&k.prefix, "kube-annotation-prefix", flannel.DefaultPrefix, "`prefix` of the node annotations")
	f.BoolVar(&k.condition, "set-node-network-unavailable", true, "keep the node condition NetworkUnavailable (with backend alloc, the cloud does)")
}

// check reads the configuration.
func (k *kubeOptions) check(nodes string, fault func(flag, value, want string)) {
	var err error
	if k.keys, err = flannel.NewKeys(k.prefix); err != nil {
		fault("kube-annotation-prefix", k.prefix, err.Error())
	}
	if nodes != "" {
		for _, f := range []struct{ flag, value string }{{"kubeconfig", k.kubeconfig}, {"api-server", k.server}} {
			if f.value != "" {
				fault(f.flag, f.value, fmt.Sprintf("contradicts --nodes %q: want nodes from files or from Kubernetes, not both", nodes))
			}
		}
		return
	}
	access := kubeapi.Access{Kubeconfig: k.kubeconfig, Server: k.server, UserAgent: "podnet-agent/" + version}
	if k.config, err = access.Load(); err != nil {
		flag, value := "kubeconfig", k.kubeconfig
		if k.server != "" {
			flag, value = "api-server", k.server
		}
		fault(flag, value, err.Error()+"; want --kubeconfig, or --nodes with node descriptions, or a pod with a service account")
	}
}

// from says where the nodes come from, for the log.
func (o options) from() string {
	if o.nodes != "" {
		return o.nodes
	}
	return o.kube.config.Host
}

// source returns where the nodes come from and, if that is Kubernetes, what tells it of this node.
func (o options) source(metrics *agent.Metrics, log *slog.Logger) (agent.NodeSource, *kubenode.Publisher, error) {
	if o.nodes != "" {
		return nodefile.New(o.nodes, nodefile.Options{Poll: o.resync, Logger: log}), nil, nil
	}
	client, err := kubeapi.New(o.kube.config, o.kube.keys.Prefix)
	if err != nil {
		return nil, nil, fmt.Errorf("kubernetes client: %w", err)
	}
	m := kubenode.NewMetrics()
	m.Received(client.Received)
	if err := metrics.Registerer().Register(m); err != nil {
		return nil, nil, fmt.Errorf("metrics: %w", err)
	}
	source := kubenode.New(client, kubenode.Options{
		NodeName: o.nodeName, Keys: o.kube.keys, Net: o.net, State: filepath.Join(o.stateDir, stateFile), Metrics: m, Logger: log,
	})
	publisher := kubenode.NewPublisher(client, source, kubenode.PublisherOptions{NodeName: o.nodeName, Keys: o.kube.keys, Condition: o.kube.condition, PublicIPs: o.public.addrs, Logger: log})
	return source, publisher, nil
}
