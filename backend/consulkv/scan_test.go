package consulkv

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/hashicorp/consul/api"
)

// scanAll reads a list with the scanner.
func scanAll(r io.Reader) ([]api.KVPair, error) {
	d := newScanner(r)
	defer d.free()
	if err := d.list(); err != nil {
		return nil, err
	}
	var all []api.KVPair
	for {
		p, err := d.next()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		value, err := p.value()
		if err != nil {
			return nil, err
		}
		all = append(all, api.KVPair{Key: string(p.name), Value: value, Session: string(p.session), Flags: p.flags, CreateIndex: p.create, ModifyIndex: p.modify})
	}
}

// FuzzScanner compares the scanner with encoding/json, on what that has written.
func FuzzScanner(f *testing.F) {
	f.Add("plain", []byte("value"), uint64(0), uint64(7), "", uint8(1))
	f.Add(`a"b\c<&>é😀`, []byte{0, 255}, uint64(1<<63+5), uint64(1)<<63, "5e1f", uint8(3))
	f.Add("", bytes.Repeat([]byte("x"), 200<<10), uint64(1), uint64(2), "s", uint8(2))
	f.Add(`\ufffd\\`, []byte(nil), uint64(0), uint64(0), `"`, uint8(0))
	f.Fuzz(func(t *testing.T, key string, value []byte, flags, index uint64, session string, n uint8) {
		key, session = strings.ToValidUTF8(key, "?"), strings.ToValidUTF8(session, "?")
		want := make([]api.KVPair, n%5)
		for i := range want {
			want[i] = api.KVPair{Key: key, Value: value, Session: session, Flags: flags, CreateIndex: index, ModifyIndex: index + uint64(i)}
		}
		text, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var spaced bytes.Buffer
		if err := json.Indent(&spaced, text, " ", "\t"); err != nil {
			t.Fatal(err)
		}
		for _, r := range []io.Reader{bytes.NewReader(text), iotest.OneByteReader(bytes.NewReader(text)), &spaced} {
			got, err := scanAll(r)
			if err != nil || len(got) != len(want) {
				t.Fatalf("%d pairs, %v; want %d", len(got), err, len(want))
			}
			for i, g := range got {
				w := want[i]
				if g.Key != w.Key || !bytes.Equal(g.Value, w.Value) || g.Session != w.Session || g.Flags != w.Flags || g.CreateIndex != w.CreateIndex || g.ModifyIndex != w.ModifyIndex {
					t.Errorf("pair %d: %+v, want %+v", i, g, w)
				}
			}
		}
		for cut := range len(text) {
			if _, err := scanAll(bytes.NewReader(text[:cut])); err == nil {
				t.Fatalf("the first %d of %d bytes are read as a whole list", cut, len(text))
			}
			if cut > 2000 {
				break
			}
		}
	})
}

// What is not JSON must be an error, and never a panic or a loop.
func FuzzScannerGarbage(f *testing.F) {
	for _, s := range []string{`[]`, `[{}]`, `[{"Key":null,"X":[1,{"a":"]"}],"Flags":1e5}]`, `[{"Key":"a"`, `[,]`, `{"Results":[{"KV":{}}]}`, `[{"X":`, `[{"X":}]`, `[{"X":]}]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		scanAll(bytes.NewReader(text))
		d := newScanner(bytes.NewReader(text))
		defer d.free()
		for err := d.txn(); err == nil; {
			_, err = d.result()
		}
	})
}

func TestScannerReadsTransactions(t *testing.T) {
	const text = `{"Index":0,"Results":[{"KV":{"Key":"a","Value":"dg==","ModifyIndex":3}},{"Node":{"x":[1]}},{"KV":{"Key":"b","Value":null,"ModifyIndex":4}}],"Errors":null}`
	d := newScanner(strings.NewReader(text))
	defer d.free()
	if err := d.txn(); err != nil {
		t.Fatal(err)
	}
	var keys []string
	for {
		p, err := d.result()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, string(p.name))
	}
	if keys[0] != "a" || keys[2] != "b" || len(keys) != 3 {
		t.Errorf("read %q", keys)
	}
}

func TestNamesThatAreNotUTF8AreTold(t *testing.T) {
	text, err := json.Marshal([]api.KVPair{{Key: "a\xff"}, {Key: "a\uFFFD"}, {Key: `a\ufffd`}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := scanAll(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if got[0].Key == "a\uFFFD" || got[1].Key != "a\uFFFD" || got[2].Key != `a\ufffd` {
		t.Errorf("read %q, %q, %q", got[0].Key, got[1].Key, got[2].Key)
	}
}
