// Package promtest holds what our commands ship for Prometheus to the metrics that they really serve: a renamed metric breaks a test, not somebody's alert.
//
// What it does: [Labels] lists the metrics of a registry; [CheckExpr] finds names and labels in a PromQL expression that are not among them; [CheckAlerts] does so for a file of
// alerts, and wants a guide to say what to do about each. PromQL is not parsed but searched for names: an expression that is no PromQL passes.
//
// What it owns: nothing. Privileges: none. Concurrency: everything may be called by several goroutines at once.
package promtest
