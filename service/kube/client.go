package kube

import (
	"context"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
)

// client speaks to one API server about four kinds only: client-go's clientset would bring the types of all API groups into memory.
type client struct {
	parameters                  runtime.ParameterCodec
	core, discovery, networking *rest.RESTClient
}

// resource is a kind of object, and which of them are wanted.
type resource struct {
	name       string
	example    runtime.Object
	list       runtime.Object // an empty one is copied
	client     *rest.RESTClient
	parameters runtime.ParameterCodec
	labels     string
	fields     string
}

// mediaTypes: protobuf is four times cheaper to read than JSON. A server that has no protobuf answers with JSON.
const mediaTypes = "application/vnd.kubernetes.protobuf,application/json"

func newScheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, discoveryv1.AddToScheme, networkingv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	return scheme, nil
}

func newClient(config *rest.Config) (*client, error) {
	scheme, err := newScheme()
	if err != nil {
		return nil, err
	}
	config = rest.CopyConfig(config)
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.ContentType, config.AcceptContentTypes = "application/vnd.kubernetes.protobuf", mediaTypes
	shared, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	c := &client{parameters: runtime.NewParameterCodec(scheme)}
	for _, g := range []struct {
		to      **rest.RESTClient
		path    string
		version schema.GroupVersion
	}{{&c.core, "/api", corev1.SchemeGroupVersion}, {&c.discovery, "/apis", discoveryv1.SchemeGroupVersion}, {&c.networking, "/apis", networkingv1.SchemeGroupVersion}} {
		if *g.to, err = forGroup(config, shared, g.path, g.version); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func forGroup(config *rest.Config, shared *http.Client, path string, version schema.GroupVersion) (*rest.RESTClient, error) {
	config = rest.CopyConfig(config)
	config.APIPath, config.GroupVersion = path, &version
	return rest.RESTClientForConfigAndClient(config, shared)
}

// services are those with a cluster IP that another proxy is not named for.
func (c *client) services(proxyName string) resource {
	selector := labels.NewSelector()
	op, values := selection.DoesNotExist, []string(nil)
	if proxyName != "" {
		op, values = selection.Equals, []string{proxyName}
	}
	if r, err := labels.NewRequirement(LabelProxyName, op, values); err == nil {
		selector = selector.Add(*r)
	}
	return resource{name: "services", example: &corev1.Service{}, list: &corev1.ServiceList{}, client: c.core, parameters: c.parameters,
		labels: selector.String(), fields: fields.OneTermNotEqualSelector("spec.clusterIP", corev1.ClusterIPNone).String()}
}

// slices are those of Services that are not headless.
func (c *client) slices() resource {
	return resource{name: "endpointslices", example: &discoveryv1.EndpointSlice{}, list: &discoveryv1.EndpointSliceList{}, client: c.discovery, parameters: c.parameters,
		labels: "!" + corev1.IsHeadlessService}
}

func (c *client) node(name string) resource {
	return resource{name: "nodes", example: &corev1.Node{}, list: &corev1.NodeList{}, client: c.core, parameters: c.parameters,
		fields: fields.OneTermEqualSelector("metadata.name", name).String()}
}

// cidrs are the ranges of ClusterIPs (Kubernetes 1.33).
func (c *client) cidrs() resource {
	return resource{name: "servicecidrs", example: &networkingv1.ServiceCIDR{}, list: &networkingv1.ServiceCIDRList{}, client: c.networking, parameters: c.parameters}
}

func (r resource) doList(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	o.LabelSelector, o.FieldSelector = r.labels, r.fields
	out := r.list.DeepCopyObject()
	err := r.client.Get().Resource(r.name).VersionedParams(&o, r.parameters).Do(ctx).Into(out)
	return out, err
}

func (r resource) doWatch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	o.LabelSelector, o.FieldSelector, o.Watch = r.labels, r.fields, true
	return r.client.Get().Resource(r.name).VersionedParams(&o, r.parameters).Watch(ctx)
}
