// Package otelkv traces and measures the operations of a kv.Store with
// OpenTelemetry:
//
//	s, err := drivers.Open(ctx, url, kv.Intercept(otelkv.Interceptor()))
//
// Every operation of the store becomes a span of kind client, the requests of
// locks and the renewals of leases included; a Modify is a span around those of
// its reads and writes. Spans are children of the span in the call's context,
// and drivers are called under theirs, so that an instrumented client's own
// spans lie below.
//
// The histogram db.client.operation.duration, in seconds, has the duration of
// every operation. Waiting for a lock is part of the operation that waits, a
// loop over a List of that list.
//
// Names follow OpenTelemetry's conventions for database clients:
//
//	db.system.name     the store: etcd, consul, zookeeper, redis, bolt, memory
//	db.operation.name  kv.Op: "get", "commit"
//	error.type         what the error matches: "conflict", "uncertain", "undecodable" for a
//	                   *codec.Error; absent for success
//	kv.key             spans only: the full key or prefix; see WithoutKeys
//
// Values never stand in a span or a metric.
//
// An answer is not an error: a span whose operation found no key, or whose
// condition did not hold, has error.type but no error status, since programs
// ask such questions all the time.
//
// The interceptor is safe for concurrent use, starts no goroutine and needs no
// closing.
package otelkv
