package main

import (
	"context"
	"errors"
	"net/http"

	"github.com/podnet/podnet/test/controlplane"
)

const (
	servicesPath = "/api/v1/namespaces/" + serviceNamespace + "/services"
	slicesPath   = "/apis/discovery.k8s.io/v1/namespaces/" + serviceNamespace + "/endpointslices"
)

// prepareServices makes the namespace of the lab's Services.
func (c *cluster) prepareServices(ctx context.Context) error {
	return c.admin.Do(ctx, http.MethodPost, "/api/v1/namespaces", object{"apiVersion": "v1", "kind": "Namespace", "metadata": object{"name": serviceNamespace}}, nil)
}

// publish makes or changes a Service and its EndpointSlices in the API server.
func (c *cluster) publish(ctx context.Context, s *labService, families []bool) error {
	o := s.object(families)
	if err := c.put(ctx, servicesPath, s.name, o); err != nil {
		return err
	}
	if status, ok := o["status"]; ok { // what a cloud's controller does
		if err := c.admin.Do(ctx, http.MethodPatch, servicesPath+"/"+s.name+"/status", object{"status": status}, nil); err != nil {
			return err
		}
	}
	for _, v6 := range families {
		if err := c.put(ctx, slicesPath, s.sliceName(v6), s.slice(v6)); err != nil {
			return err
		}
	}
	return nil
}

// put makes an object, or gives the one that is there the same fields.
func (c *cluster) put(ctx context.Context, path, name string, o object) error {
	err := c.admin.Do(ctx, http.MethodPost, path, o, nil)
	var refused *controlplane.StatusError
	if errors.As(err, &refused) && refused.Code == http.StatusConflict {
		return c.admin.Do(ctx, http.MethodPatch, path+"/"+name, o, nil)
	}
	return err
}
