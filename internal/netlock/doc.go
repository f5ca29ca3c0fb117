// Package netlock keeps a program from running twice in one network namespace, where each would take the other's kernel objects for its own.
package netlock
