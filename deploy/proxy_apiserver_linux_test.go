package deploy

import "net/http"

// proxyAllowed is all that podnet-proxy asks for, as it does: that it works with no more, TestProxyPod of deploy/image shows.
var proxyAllowed = []request{
	{name: "list services", method: http.MethodGet, path: "/api/v1/services?labelSelector=%21service.kubernetes.io%2Fservice-proxy-name&fieldSelector=spec.clusterIP%21%3DNone"},
	{name: "watch services", method: http.MethodGet, path: "/api/v1/services?watch=1&timeoutSeconds=1&resourceVersion=0&allowWatchBookmarks=true&fieldSelector=metadata.name%3Dnone"},
	{name: "list slices", method: http.MethodGet, path: "/apis/discovery.k8s.io/v1/endpointslices?labelSelector=%21service.kubernetes.io%2Fheadless"},
	{name: "watch slices", method: http.MethodGet, path: "/apis/discovery.k8s.io/v1/endpointslices?watch=1&timeoutSeconds=1&resourceVersion=0&fieldSelector=metadata.name%3Dnone"},
	{name: "list its node", method: http.MethodGet, path: "/api/v1/nodes?fieldSelector=metadata.name%3Dnode-a"},
	{name: "watch its node", method: http.MethodGet, path: "/api/v1/nodes?watch=1&timeoutSeconds=1&resourceVersion=0&fieldSelector=metadata.name%3Dnode-a"},
	{name: "list ServiceCIDRs", method: http.MethodGet, path: "/apis/networking.k8s.io/v1/servicecidrs"},
	{name: "event of a service", method: http.MethodPost, path: "/api/v1/namespaces/kube-public/events", body: object{"apiVersion": "v1", "kind": "Event",
		"metadata": object{"name": "web.1", "namespace": "kube-public"}, "involvedObject": object{"kind": "Service", "namespace": "kube-public", "name": "web"}, "reason": "Invalid", "type": "Warning"}},
}

var proxyForbidden = []request{
	{"read one service", http.MethodGet, "/api/v1/namespaces/default/services/kubernetes", nil, rbacSays + "get"},
	{"make a service", http.MethodPost, "/api/v1/namespaces/default/services", object{"apiVersion": "v1", "kind": "Service", "metadata": object{"name": "x"}}, rbacSays + "create"},
	{"change a service", http.MethodPatch, "/api/v1/namespaces/default/services/kubernetes", object{"spec": object{"externalIPs": []string{"192.0.2.1"}}}, rbacSays + "patch"},
	{"give a service an address", http.MethodPatch, "/api/v1/namespaces/default/services/kubernetes/status", object{"status": nil}, rbacSays + "patch"},
	{"delete a service", http.MethodDelete, "/api/v1/namespaces/default/services/kubernetes", nil, rbacSays + "delete"},
	{"make a slice", http.MethodPost, "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", object{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": object{"name": "x"}}, rbacSays + "create"},
	{"change a slice", http.MethodPatch, "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes", object{"endpoints": nil}, rbacSays + "patch"},
	{"list endpoints", http.MethodGet, "/api/v1/endpoints", nil, rbacSays + "list"},
	{"read its node", http.MethodGet, "/api/v1/nodes/node-a", nil, rbacSays + "get"},
	{"change its node", http.MethodPatch, "/api/v1/nodes/node-a", object{"spec": object{"taints": nil}}, rbacSays + "patch"},
	{"change its status", http.MethodPatch, ownStatus, object{"status": nil}, rbacSays + "patch"},
	{"proxy to a kubelet", http.MethodGet, "/api/v1/nodes/node-b/proxy/pods", nil, rbacSays + "get"},
	{"list pods", http.MethodGet, "/api/v1/pods", nil, rbacSays + "list"},
	{"list secrets", http.MethodGet, "/api/v1/secrets", nil, rbacSays + "list"},
	{"list ConfigMaps", http.MethodGet, "/api/v1/namespaces/kube-system/configmaps", nil, rbacSays + "list"},
	{"read kube-proxy's ConfigMap", http.MethodGet, "/api/v1/namespaces/kube-system/configmaps/kube-proxy", nil, rbacSays + "get"},
	{"list events", http.MethodGet, "/api/v1/events", nil, rbacSays + "list"},
	{"change an event", http.MethodPatch, "/api/v1/namespaces/kube-public/events/web.1", object{"count": 2}, rbacSays + "patch"},
	{"change the ServiceCIDR", http.MethodPatch, "/apis/networking.k8s.io/v1/servicecidrs/kubernetes", object{"spec": nil}, rbacSays + "patch"},
	{"token of another account", http.MethodPost, "/api/v1/namespaces/kube-system/serviceaccounts/default/token",
		object{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": object{}}, rbacSays + "create"},
	{"widen its role", http.MethodPatch, "/apis/rbac.authorization.k8s.io/v1/clusterroles/podnet-proxy", object{"rules": nil}, rbacSays + "patch"},
	{"change its DaemonSet", http.MethodPatch, "/apis/apps/v1/namespaces/kube-system/daemonsets/podnet-proxy", object{"spec": nil}, rbacSays + "patch"},
}
