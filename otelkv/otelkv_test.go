package otelkv_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	api "go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/memkv"
	"github.com/polykv/kv/codec"
	"github.com/polykv/kv/kvtest"
	"github.com/polykv/kv/lock"
	"github.com/polykv/kv/otelkv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorded is a store whose spans and metrics are kept.
type recorded struct {
	*kv.Store
	tracer api.Tracer
	spans  *tracetest.SpanRecorder
	reader *metric.ManualReader
}

func record(t *testing.T, faults *kvtest.Faults, opts ...otelkv.Option) recorded {
	r := recorded{spans: tracetest.NewSpanRecorder(), reader: metric.NewManualReader()}
	tracers := trace.NewTracerProvider(trace.WithSpanProcessor(r.spans))
	meters := metric.NewMeterProvider(metric.WithReader(r.reader))
	t.Cleanup(func() {
		if err := errors.Join(tracers.Shutdown(context.Background()), meters.Shutdown(context.Background())); err != nil {
			t.Error(err)
		}
	})
	opts = append(opts, otelkv.WithTracerProvider(tracers), otelkv.WithMeterProvider(meters))
	r.tracer = tracers.Tracer("test")
	r.Store = kvtest.New(t, kv.Intercept(otelkv.Interceptor(opts...)), kv.Intercept(faults.Intercept))
	return r
}

func attr(span trace.ReadOnlySpan, key attribute.Key) string {
	for _, a := range span.Attributes() {
		if a.Key == key {
			return a.Value.AsString()
		}
	}
	return ""
}

// durations are how often the histogram has seen each operation and outcome.
func (r recorded) durations(t *testing.T) map[string]uint64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := r.reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	counts := map[string]uint64{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			h, ok := m.Data.(metricdata.Histogram[float64])
			if !ok || scope.Scope.Name != otelkv.Scope || m.Name != "db.client.operation.duration" || m.Unit != "s" {
				t.Errorf("unexpected metric %s %s of %s", m.Name, m.Unit, scope.Scope.Name)
				continue
			}
			for _, p := range h.DataPoints {
				op, _ := p.Attributes.Value("db.operation.name")
				kind, _ := p.Attributes.Value("error.type")
				store, _ := p.Attributes.Value("db.system.name")
				if _, has := p.Attributes.Value("kv.key"); has || store.AsString() != "memory" {
					t.Errorf("attributes of a metric: %v", p.Attributes.ToSlice())
				}
				counts[op.AsString()+":"+kind.AsString()] += p.Count
			}
		}
	}
	return counts
}

func TestSpansAndMetrics(t *testing.T) {
	var faults kvtest.Faults
	r := record(t, &faults)
	ctx := t.Context()
	faults.LoseReply(kv.OpPut)

	_, uncertain := r.Put(ctx, "a", []byte("secret"))
	_, _ = r.Create(ctx, "a", nil)
	_, _ = r.Get(ctx, "missing")
	_, _ = r.Sub("sub").Get(ctx, "b")
	if !errors.Is(uncertain, kv.ErrUncertain) {
		t.Fatalf("the put whose reply is lost: %v", uncertain)
	}

	type seen struct {
		name, key, kind string
		status          codes.Code
	}
	var got []seen
	for _, s := range r.spans.Ended() {
		if s.SpanKind() != api.SpanKindClient || attr(s, "db.system.name") != "memory" {
			t.Errorf("%s: kind %v, attributes %v", s.Name(), s.SpanKind(), s.Attributes())
		}
		if len(s.Events()) > 0 || s.Status().Description != "" && s.Status().Description != attr(s, "error.type") {
			t.Errorf("%s tells more than the kind of error: %v %v", s.Name(), s.Status(), s.Events())
		}
		got = append(got, seen{s.Name(), attr(s, "kv.key"), attr(s, "error.type"), s.Status().Code})
	}
	want := []seen{
		{"put memory", "a", "uncertain", codes.Error},
		{"create memory", "a", "exists", codes.Unset},
		{"get memory", "missing", "not_found", codes.Unset},
		{"get memory", "sub/b", "not_found", codes.Unset},
	}
	if !slices.Equal(got, want) {
		t.Errorf("spans\n%v, want\n%v", got, want)
	}
	counts := r.durations(t)
	if len(counts) != 3 || counts["put:uncertain"] != 1 || counts["create:exists"] != 1 || counts["get:not_found"] != 2 {
		t.Errorf("durations: %v", counts)
	}
}

// A Modify is around its read and its write, and all are below the caller's span.
func TestSpansNest(t *testing.T) {
	var faults kvtest.Faults
	r := record(t, &faults)
	ctx, outer := r.tracer.Start(t.Context(), "outer")
	if _, err := r.Modify(ctx, "n", func(e *kv.Entry[[]byte]) error { e.Value = []byte("1"); return nil }, kv.Upsert()); err != nil {
		t.Fatal(err)
	}
	outer.End()
	byName := map[string]trace.ReadOnlySpan{}
	for _, s := range r.spans.Ended() {
		byName[s.Name()] = s
	}
	for child, parent := range map[string]string{
		"modify memory": "outer", "get memory": "modify memory", "create memory": "modify memory",
	} {
		c, p := byName[child], byName[parent]
		if c == nil || p == nil || c.Parent().SpanID() != p.SpanContext().SpanID() {
			t.Errorf("%q is not a child of %q", child, parent)
		}
	}
}

func TestWithoutKeys(t *testing.T) {
	var faults kvtest.Faults
	r := record(t, &faults, otelkv.WithoutKeys(), nil)
	if err := lock.Do(t.Context(), r.Store, "private", func(ctx context.Context, _ *lock.Held) error {
		for _, err := range r.List(ctx, "private") {
			return err
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	ended := r.spans.Ended()
	ops := map[string]bool{}
	for _, s := range ended {
		ops[attr(s, "db.operation.name")] = true
		for _, a := range s.Attributes() {
			if a.Value.AsString() == "private" {
				t.Errorf("%s has the key in %s", s.Name(), a.Key)
			}
		}
	}
	for _, op := range []string{"lock", "list", "unlock"} {
		if !ops[op] {
			t.Errorf("no span of %s", op)
		}
	}
}

// Every sentinel has a name of its own.
func TestOutcome(t *testing.T) {
	names := map[string]bool{}
	for _, err := range []error{
		kv.ErrNotFound, kv.ErrExists, kv.ErrConflict, kv.ErrInvalid, kv.ErrInvalidKey, kv.ErrTooLarge, kv.ErrHistoryLost,
		kv.ErrLocked, kv.ErrLockLost, kv.ErrLeaseLost, kv.ErrUnavailable, kv.ErrUncertain, kv.ErrClosed, kv.ErrPermission,
		kv.ErrCorrupt, kv.ErrNewerSchema, errors.ErrUnsupported, context.Canceled, context.DeadlineExceeded, errors.New("other"),
		&codec.Error{Key: "k", Err: errors.New("bad")},
	} {
		kind, _ := otelkv.Outcome(&kv.Error{Op: kv.OpGet, Err: err})
		if names[kind] {
			t.Errorf("%v shares the name %q", err, kind)
		}
		names[kind] = true
	}
	both := fmt.Errorf("%w: %w", kv.ErrUncertain, context.Canceled)
	if kind, failed := otelkv.Outcome(both); kind != "uncertain" || !failed {
		t.Errorf("a write whose context ended is %q, failed %v", kind, failed)
	}
}

// A value that does not decode has one name, whatever its codec says of it.
func TestUndecodable(t *testing.T) {
	var faults kvtest.Faults
	r := record(t, &faults)
	if _, err := r.Put(t.Context(), "n", []byte("secret")); err != nil {
		t.Fatal(err)
	}
	_, err := kv.NewTyped(r.Store, codec.JSON[int](), "").Modify(t.Context(), "n", func(*kv.Entry[int]) error { return nil })
	if err == nil {
		t.Fatal("no error")
	}
	ended := r.spans.Ended()
	last := ended[len(ended)-1]
	if kind := attr(last, "error.type"); kind != "undecodable" || last.Status().Code != codes.Error || last.Status().Description != kind {
		t.Errorf("%s: error.type %q, status %v, for %v", last.Name(), kind, last.Status(), err)
	}
	for _, cause := range []error{errors.New("bad"), kv.ErrNotFound, kv.ErrInvalid, context.Canceled} {
		err := &kv.Error{Op: kv.OpModify, Key: "n", Err: &codec.Error{Key: "n", Err: cause}}
		if kind, failed := otelkv.Outcome(err); kind != "undecodable" || !failed {
			t.Errorf("%v is %q, failed %v", err, kind, failed)
		}
		both := errors.Join(kv.ErrUncertain, err)
		if kind, failed := otelkv.Outcome(both); kind != "uncertain" || !failed {
			t.Errorf("%v is %q, failed %v", both, kind, failed)
		}
	}
}

func ExampleInterceptor() {
	tracers := trace.NewTracerProvider(trace.WithSpanProcessor(trace.NewSimpleSpanProcessor(printer{})))
	defer tracers.Shutdown(context.Background())
	s := kv.New(memkv.New(memkv.Options{}), kv.Intercept(otelkv.Interceptor(otelkv.WithTracerProvider(tracers))))
	defer s.Close()
	_, _ = s.Put(context.Background(), "greeting", []byte("hello"))
	_, _ = s.Get(context.Background(), "farewell")
	// Output:
	// put memory greeting
	// get memory farewell not_found
}

// printer exports spans as lines.
type printer struct{}

func (printer) ExportSpans(_ context.Context, spans []trace.ReadOnlySpan) error {
	for _, s := range spans {
		line := s.Name() + " " + attr(s, "kv.key")
		if kind := attr(s, "error.type"); kind != "" {
			line += " " + kind
		}
		fmt.Fprintln(os.Stdout, line)
	}
	return nil
}

func (printer) Shutdown(context.Context) error { return nil }
