package otelkv

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/polykv/kv"
	"github.com/polykv/kv/codec"
)

// Scope is the name of the instrumentation scope of all spans and metrics.
const Scope = "github.com/polykv/kv/otelkv"

// The attributes, named by OpenTelemetry's conventions where those have a name.
const (
	system    = attribute.Key("db.system.name")
	operation = attribute.Key("db.operation.name")
	errorType = attribute.Key("error.type")
	keyName   = attribute.Key("kv.key")
)

// buckets are the boundaries, in seconds, that the conventions advise for
// db.client.operation.duration.
var buckets = []float64{0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10}

// Option changes what Interceptor does.
type Option interface{ apply(options) options }

type options struct {
	tracers  trace.TracerProvider
	meters   metric.MeterProvider
	omitKeys bool
}

type option func(options) options

func (f option) apply(o options) options { return f(o) }

// WithTracerProvider takes tracers from p in place of OpenTelemetry's global
// provider.
func WithTracerProvider(p trace.TracerProvider) Option {
	return option(func(o options) options { o.tracers = p; return o })
}

// WithMeterProvider takes meters from p in place of OpenTelemetry's global
// provider.
func WithMeterProvider(p metric.MeterProvider) Option {
	return option(func(o options) options { o.meters = p; return o })
}

// WithoutKeys leaves keys out of spans, for programs whose keys are personal or
// secret.
func WithoutKeys() Option {
	return option(func(o options) options { o.omitKeys = true; return o })
}

// Interceptor returns what kv.Intercept takes. Without options it uses
// OpenTelemetry's global providers, which are silent until a program sets them.
// Put it before other interceptors for them to run inside of its spans.
func Interceptor(opts ...Option) kv.Interceptor {
	o := options{tracers: otel.GetTracerProvider(), meters: otel.GetMeterProvider()}
	for _, opt := range opts {
		if opt != nil {
			o = opt.apply(o)
		}
	}
	tracer := o.tracers.Tracer(Scope)
	duration, err := o.meters.Meter(Scope).Float64Histogram("db.client.operation.duration",
		metric.WithUnit("s"),
		metric.WithDescription("Duration of operations of a key/value store."),
		metric.WithExplicitBucketBoundaries(buckets...))
	if err != nil {
		// A provider may refuse an instrument that it has with another shape; it
		// then gives one that records nothing, and says so by this handler.
		otel.Handle(err)
	}
	return func(ctx context.Context, c kv.Call, next func(context.Context) error) error {
		start := time.Now()
		attrs := [3]attribute.KeyValue{system.String(c.Store), operation.String(string(c.Op))}
		n := 2
		ctx, span := tracer.Start(ctx, string(c.Op)+" "+c.Store,
			trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(start), trace.WithAttributes(attrs[:n]...))
		defer span.End() // also when next panics
		if !o.omitKeys && c.Key != "" && span.IsRecording() {
			span.SetAttributes(keyName.String(c.Key))
		}
		err := next(ctx)
		if err != nil {
			kind, failed := Outcome(err)
			attrs[n] = errorType.String(kind)
			n++
			span.SetAttributes(attrs[n-1])
			if failed {
				// Without the error's text, which has the key.
				span.SetStatus(codes.Error, kind)
			}
		}
		duration.Record(ctx, time.Since(start).Seconds(), metric.WithAttributes(attrs[:n]...))
		return err
	}
}

// Outcome gives err the name that error.type has, and tells whether it is a
// failure rather than an answer. An error of several kinds has the first that
// matches, and that a write may have been applied stands before its reason.
//
// A value that does not decode, a *codec.Error, is "undecodable", whatever its
// cause matches: that is the codec's, which may be the program's own.
func Outcome(err error) (kind string, failed bool) {
	var undecodable *codec.Error
	if errors.As(err, &undecodable) && !errors.Is(err, kv.ErrUncertain) {
		return "undecodable", true
	}
	for _, o := range outcomes {
		if errors.Is(err, o.err) {
			return o.kind, o.failed
		}
	}
	return "_OTHER", true // the conventions' name for what has none
}

// outcomes are the sentinels of kv and their names.
var outcomes = [...]struct {
	err    error
	kind   string
	failed bool
}{
	{kv.ErrUncertain, "uncertain", true},
	{context.Canceled, "canceled", true},
	{context.DeadlineExceeded, "deadline_exceeded", true},
	{kv.ErrNotFound, "not_found", false},
	{kv.ErrExists, "exists", false},
	{kv.ErrConflict, "conflict", false},
	{kv.ErrLocked, "locked", false},
	{kv.ErrLockLost, "lock_lost", true},
	{kv.ErrLeaseLost, "lease_lost", true},
	{kv.ErrHistoryLost, "history_lost", true},
	{kv.ErrPermission, "permission", true},
	{kv.ErrInvalidKey, "invalid_key", true},
	{kv.ErrInvalid, "invalid", true},
	{kv.ErrTooLarge, "too_large", true},
	{kv.ErrCorrupt, "corrupt", true},
	{kv.ErrNewerSchema, "newer_schema", true},
	{kv.ErrClosed, "closed", true},
	{errors.ErrUnsupported, "unsupported", true},
	{kv.ErrUnavailable, "unavailable", true},
}
