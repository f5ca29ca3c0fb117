// Package ipvstest has a kernel for tests that keeps IPVS in memory.
package ipvstest
