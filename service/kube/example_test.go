package kube_test

import (
	"context"
	"fmt"
	"log"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/kube"
	"github.com/podnet/podnet/service/servicetest"
)

// A project with informers of its own converts what they deliver.
func Example() {
	web := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec:       corev1.ServiceSpec{ClusterIP: "10.96.0.10", Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
	}
	name, port := "http", int32(8080)
	endpoints := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "web-x7", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.244.1.2"}}},
	}

	dataplane := new(servicetest.Dataplane) // nft.New makes a real one
	r := service.New(dataplane, service.Options{})
	if s, ok := kube.Service(web); ok {
		r.SetService(s)
	}
	if of, s, ok := kube.EndpointSlice(endpoints); ok {
		r.SetSlice(of, endpoints.Name, s)
	}
	if _, err := r.Sync(context.Background()); err != nil {
		log.Fatal(err)
	}
	fmt.Print(dataplane.Dump())
	// Output:
	// default/web
	//   http TCP IPv4
	//     ClusterIP 10.96.0.10:80      cluster
	//     cluster 10.244.1.2:8080
}
