package integration

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/polykv/kv"
	"github.com/polykv/kv/codec"
)

// These tests run the layer that users hold on every store, through the constructors that they call: what package kv and
// package watch do above a driver is otherwise tried on the store in memory.

// ok ends the test unless err is nil.
func ok[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

type address struct {
	Street string
	Tags   []string
}

type person struct {
	Name   string
	Age    int
	Born   time.Time
	Home   address
	Work   *address
	Boss   *person
	Labels map[string]string
	Raw    []byte
	Share  float64
}

func somebody() person {
	return person{
		Name: "Zoë <&> 😀", Age: -7, Born: time.Date(1990, 2, 3, 4, 5, 6, 789_000_001, time.UTC),
		Home: address{"Main St", []string{"a", ""}}, Work: &address{Street: "Office"}, Boss: &person{Name: "Boss"},
		Labels: map[string]string{"z": "1", "": "2"}, Raw: []byte{0, 255}, Share: 0.1,
	}
}

// sameTime lets values with a time.Time be compared: msgpack gives back the instant in the local zone.
func (p person) sameTime() person {
	p.Born = p.Born.UTC()
	if p.Boss != nil {
		boss := p.Boss.sameTime()
		p.Boss = &boss
	}
	return p
}

// TestTypedRoundTrips passes values through every way in and out of a typed view, for each codec: the zero value, pointers,
// nested structs and times among them.
func TestTypedRoundTrips(t *testing.T) {
	onEveryURL(t, func(t *testing.T, open func(testing.TB) *kv.Store) {
		s := open(t)
		people := func(a, b person) bool { return reflect.DeepEqual(a.sameTime(), b.sameTime()) }
		roundTrips(t, s, "json", codec.JSON[person](), people, somebody(), person{})
		roundTrips(t, s, "msgpack", codec.Msgpack[person](), people, somebody(), person{})
		pointers := func(a, b *person) bool { return (a == nil) == (b == nil) && (a == nil || people(*a, *b)) }
		one := somebody()
		roundTrips(t, s, "json-pointer", codec.JSON[*person](), pointers, &one, nil)
		roundTrips(t, s, "msgpack-pointer", codec.Msgpack[*person](), pointers, &one, nil)
		times := func(a, b time.Time) bool { return a.Equal(b) }
		roundTrips(t, s, "json-time", codec.JSON[time.Time](), times, one.Born, time.Time{})
		roundTrips(t, s, "msgpack-time", codec.Msgpack[time.Time](), times, one.Born, time.Time{})
		roundTrips(t, s, "json-any", codec.JSON[map[string]any](), func(a, b map[string]any) bool { return reflect.DeepEqual(a, b) },
			map[string]any{"a": []any{1.5, nil, "x"}}, nil)
		roundTrips(t, s, "string", codec.String(), func(a, b string) bool { return a == b }, "a\x00\xff", "")
		roundTrips(t, s, "bytes", codec.Bytes(), bytes.Equal, []byte{0, 1, 255}, []byte{})
		messages := func(a, b *structpb.Struct) bool { return proto.Equal(a, b) }
		full := ok[*structpb.Struct](t)(structpb.NewStruct(map[string]any{"a": map[string]any{"b": []any{1.0, true, nil}}, "": "é"}))
		roundTrips(t, s, "proto", codec.Proto[*structpb.Struct](), messages, full, &structpb.Struct{})
	})
}

func roundTrips[T any](t *testing.T, s *kv.Store, name string, c codec.Codec[T], same func(a, b T) bool, values ...T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	ns := kv.NewTyped(s, c, "codecs/"+name)
	w := ok[*kv.Watch[T]](t)(ns.Watch(ctx, "", kv.WithPrev()))
	defer w.Close()
	check := func(how string, got, want T) {
		t.Helper()
		if !same(got, want) {
			t.Errorf("%s, %s: got %+v, want %+v", name, how, got, want)
		}
	}
	next := func(kind kv.Kind, want T) kv.Event[T] {
		t.Helper()
		ev := ok[kv.Event[T]](t)(w.Next(ctx))
		if ev.Kind != kind || ev.Key != "k" {
			t.Fatalf("%s: %v of %q, want %v", name, ev.Kind, ev.Key, kind)
		}
		check(kind.String(), ev.Value, want)
		return ev
	}
	kind := kv.Created
	var last kv.Entry[T]
	for _, v := range values {
		put := ok[kv.Entry[T]](t)(ns.Put(ctx, "k", v))
		ev := next(kind, v)
		if kind = kv.Updated; ev.Prev != nil {
			check("previous", ev.Prev.Value, last.Value)
		}
		check("put", put.Value, v)
		check("get", ok[kv.Entry[T]](t)(ns.Get(ctx, "k")).Value, v)
		check("get many", ok[[]kv.Lookup[T]](t)(ns.GetMany(ctx, []string{"k"}))[0].Value, v)
		entries := ok[[]kv.Entry[T]](t)(kv.Collect(ns.List(ctx, "")))
		if len(entries) != 1 || entries[0].Revision != put.Revision {
			t.Fatalf("%s: listed %+v", name, entries)
		}
		check("list", entries[0].Value, v)
		// There is a key, whatever its value: none of them is absent.
		if exists, err := ns.Exists(ctx, "k"); !exists || err != nil {
			t.Errorf("%s: exists is %v, %v", name, exists, err)
		}
		mod := ok[kv.Entry[T]](t)(ns.Modify(ctx, "k", func(e *kv.Entry[T]) error {
			check("modify", e.Value, v)
			return nil
		}))
		next(kv.Updated, v)
		upd := ok[kv.Entry[T]](t)(ns.Update(ctx, "k", v, mod.Revision))
		next(kv.Updated, v)
		tx := s.Txn()
		ns.In(tx).Update("k", v, upd.Revision)
		ok[kv.TxnResult](t)(tx.Commit(ctx))
		next(kv.Updated, v)
		last = ok[kv.Entry[T]](t)(ns.Get(ctx, "k"))
		check("committed", last.Value, v)
	}
}

// TestSchemaEvolution reads with a newer type what an older one wrote, and the other way round.
func TestSchemaEvolution(t *testing.T) {
	type v1 struct {
		Name string
		Old  int
	}
	type v2 struct {
		Name string
		New  *string
		Nest struct{ Deep []int }
	}
	onEveryURL(t, func(t *testing.T, open func(testing.TB) *kv.Store) {
		s, ctx := open(t), t.Context()
		evolve := func(name string, older codec.Codec[v1], newer codec.Codec[v2]) {
			before, after := kv.NewTyped(s, older, name), kv.NewTyped(s, newer, name)
			ok[kv.Entry[v1]](t)(before.Put(ctx, "k", v1{"ann", 7}))
			if e := ok[kv.Entry[v2]](t)(after.Get(ctx, "k")); e.Value.Name != "ann" || e.Value.New != nil || e.Value.Nest.Deep != nil {
				t.Errorf("%s: the newer type reads %+v", name, e.Value)
			}
			added := "more"
			ok[kv.Entry[v2]](t)(after.Modify(ctx, "k", func(e *kv.Entry[v2]) error {
				e.Value.New, e.Value.Nest.Deep = &added, []int{1, 2}
				return nil
			}))
			// The old field is lost in writing back, as the package says, and the new one is passed over.
			if e := ok[kv.Entry[v1]](t)(before.Get(ctx, "k")); e.Value != (v1{Name: "ann"}) {
				t.Errorf("%s: the older type reads %+v", name, e.Value)
			}
		}
		evolve("json", codec.JSON[v1](), codec.JSON[v2]())
		evolve("msgpack", codec.Msgpack[v1](), codec.Msgpack[v2]())

		// Protobuf keeps what it does not know: a Timestamp has a second field that an Int64Value has not.
		long := kv.NewTyped(s, codec.Proto[*timestamppb.Timestamp](), "proto")
		short := kv.NewTyped(s, codec.Proto[*wrapperspb.Int64Value](), "proto")
		ok[kv.Entry[*timestamppb.Timestamp]](t)(long.Put(ctx, "k", &timestamppb.Timestamp{Seconds: 5, Nanos: 9}))
		ok[kv.Entry[*wrapperspb.Int64Value]](t)(short.Modify(ctx, "k", func(e *kv.Entry[*wrapperspb.Int64Value]) error {
			e.Value.Value++
			return nil
		}))
		if e := ok[kv.Entry[*timestamppb.Timestamp]](t)(long.Get(ctx, "k")); e.Value.Seconds != 6 || e.Value.Nanos != 9 {
			t.Errorf("proto: %v after the shorter type wrote it back", e.Value)
		}
	})
}

// TestUndecodable mixes values that do not decode with others: each is the error of its own entry, in every way out.
func TestUndecodable(t *testing.T) {
	onEveryURL(t, func(t *testing.T, open func(testing.TB) *kv.Store) {
		s := open(t)
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		undecodable(t, ctx, s, "json", codec.JSON[int](), 1, []byte(`"`+secret))
		undecodable(t, ctx, s, "msgpack", codec.Msgpack[int](), 1, append([]byte{0xda, 0xff}, secret...))
		undecodable(t, ctx, s, "proto", codec.Proto[*wrapperspb.StringValue](), wrapperspb.String("fine"),
			append(protowire.AppendTag(nil, 1, protowire.BytesType), 0xff))
	})
}

func undecodable[T any](t *testing.T, ctx context.Context, s *kv.Store, name string, c codec.Codec[T], good T, bad []byte) {
	ns := kv.NewTyped(s, c, "bad-"+name)
	w := ok[*kv.Watch[T]](t)(ns.Watch(ctx, "", kv.FromSnapshot()))
	defer w.Close()
	if ev := ok[kv.Event[T]](t)(w.Next(ctx)); ev.Kind != kv.Synced {
		t.Fatalf("%s: %v", name, ev.Kind)
	}
	ok[kv.Entry[T]](t)(ns.Put(ctx, "a", good))
	wrong := ok[kv.Entry[[]byte]](t)(ns.Store().Put(ctx, "b", bad))
	ok[kv.Entry[T]](t)(ns.Put(ctx, "c", good))
	check := func(how, key string, err error) {
		t.Helper()
		if key != "b" {
			if err != nil {
				t.Errorf("%s, %s of %q: %v", name, how, key, err)
			}
			return
		}
		if e := (*codec.Error)(nil); !errors.As(err, &e) || e.Key != "b" || e.Revision != uint64(wrong.Revision) {
			t.Errorf("%s, %s: %v, want a codec error of b at %d", name, how, err, wrong.Revision)
		}
		checkError(t, name+" "+how, err)
	}
	for range 3 { // changes of several keys may come in any order where a watch is not lossless
		ev, err := w.Next(ctx)
		check("watch", ev.Key, err)
	}
	var listed []string
	for e, err := range ns.List(ctx, "") {
		check("list", e.Key, err)
		listed = append(listed, e.Key)
	}
	if !slices.Equal(listed, []string{"a", "b", "c"}) {
		t.Errorf("%s: listed %q", name, listed)
	}
	for _, l := range ok[[]kv.Lookup[T]](t)(ns.GetMany(ctx, []string{"c", "b", "a"})) {
		check("get many", l.Key, l.Err)
	}
	_, err := ns.Get(ctx, "b")
	check("get", "b", err)
	_, err = ns.Modify(ctx, "b", func(*kv.Entry[T]) error { return nil })
	check("modify", "b", err)
	// A plain write mends it.
	ok[kv.Entry[T]](t)(ns.Put(ctx, "b", good))
	ok[kv.Entry[T]](t)(ns.Get(ctx, "b"))
}
