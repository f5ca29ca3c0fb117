// Package hostgw connects the pods of nodes on one segment by plain routes: each node is the gateway to its own pods.
package hostgw
