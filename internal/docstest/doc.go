// Package docstest holds what we ship beside our commands to what they really do: tables in docs/, and alerts and dashboards for Prometheus. A renamed metric breaks a test, not somebody's
// alert.
//
// What it does: a table stands in a document between two comments,
//
//	<!-- flags: written by go test ./cmd/x -run TestDocs -update -->
//	<!-- end -->
//
// and [Compare] holds it to what [Flags], [Metrics] or the test itself make of the code, or rewrites it. [Labels] lists the metrics of a registry; [CheckExpr] finds names and labels in a PromQL
// expression that are not among them; [CheckAlerts] does so for a file of alerts, and wants a guide to say what to do about each. PromQL is not parsed but searched for names: an
// expression that is no PromQL passes.
//
// What it owns: nothing. Privileges: none, but to write the document. Concurrency: one test per document.
package docstest
