// Package vxlan connects the pods of all nodes by VXLAN tunnels (RFC 7348), in the wire format of flannel.
package vxlan
