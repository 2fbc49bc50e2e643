package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend/memkv"
	"github.com/polykv/kv/codec"
)

type Service struct{ Addr string }

// readme is the example of README.md, which TestREADME compares it with.
func readme(ctx context.Context, url string, stores kv.Drivers) error {
	// README:
	s, err := stores.Open(ctx, url)
	if err != nil {
		return err
	}
	defer s.Close()
	services := kv.NewTyped(s, codec.JSON[Service](), "services")
	w, err := services.Watch(ctx, "web", kv.FromSnapshot()) // what is there, then what changes
	if err != nil {
		return err
	}
	if _, err := services.Put(ctx, "web/1", Service{Addr: "10.0.0.1:80"}, kv.TTL(30*time.Second)); err != nil {
		return err
	}
	for ev, err := range w.Events() { // survives outages; leaving the loop closes the watch
		if err != nil {
			return err
		}
		fmt.Println(ev.Kind, ev.Key, ev.Value.Addr)
	}
	// END
	return nil
}

// The README's examples compile, as above and in package lock, and the first does what it says.
func TestREADME(t *testing.T) {
	blocks := strings.Split(read(t, "../../README.md"), "```")
	if len(blocks) != 5 {
		t.Fatal("README.md does not have two Go examples")
	}
	shown, election := strings.TrimPrefix(blocks[1], "go\n"), strings.TrimPrefix(blocks[3], "go\n")
	compiled := func(file string) string {
		_, source, _ := strings.Cut(read(t, file), "// README:\n")
		source, _, _ = strings.Cut(source, "\t// END")
		return strings.ReplaceAll("\n"+source, "\n\t", "\n")[1:]
	}
	if source := compiled("../../lock/example_test.go"); election != source {
		t.Errorf("README.md shows:\n%s\nthe compiled example is:\n%s", election, source)
	}
	source := compiled("docs_test.go")
	// The README opens etcd, and tells which others there are.
	opening := regexp.MustCompile(`(?s)^drivers := kv\.Drivers\{.*?\}\ns, err := drivers\.Open\(ctx, "etcd://[^"]*"\)[^\n]*\n`)
	if got := opening.ReplaceAllLiteralString(shown, "s, err := stores.Open(ctx, url)\n"); got != source {
		t.Errorf("README.md shows:\n%s\nthe compiled example is:\n%s", got, source)
	}

	for _, patience := range []time.Duration{time.Second, 30 * time.Second} { // it ends with its context, and may be slow once
		url := storeURL(t, "bolt")
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := readme(ctx, url, stores()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the example ended with %v", err)
		}
		s, err := stores().Open(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		ok, err := s.Exists(t.Context(), "services/web/1")
		if ok && err == nil {
			return
		}
		t.Logf("after %v the example has written nothing: %v", patience, err)
	}
	t.Error("the example wrote nothing")
}

// The matrix in docs/semantics.md is what the drivers say.
func TestMatrix(t *testing.T) {
	_, text, _ := strings.Cut(read(t, "../../docs/semantics.md"), "\n| | ")
	lines := strings.Split(text, "\n")
	columns := cells(lines[0])
	table := map[string][]string{}
	for _, line := range lines[2:] {
		if !strings.HasPrefix(line, "|") {
			break
		}
		row := cells(strings.Trim(line, "|"))
		table[strings.Trim(row[0], "`")] = row[1:]
	}
	for _, name := range append(names, "memory") {
		t.Run(name, func(t *testing.T) {
			i := slices.Index(columns, name)
			if i < 0 {
				t.Fatal("the matrix has no such column")
			}
			caps := reflect.ValueOf(capabilities(t, name))
			for f := range caps.NumField() {
				field := caps.Type().Field(f).Name
				if field == "Name" {
					continue
				}
				row := table[field]
				if len(row) != len(columns) {
					t.Errorf("the matrix has no row for %s", field)
					continue
				}
				if want := show(caps.Field(f).Interface()); row[i] != want {
					t.Errorf("%s: the matrix says %s, the driver %s", field, row[i], want)
				}
			}
		})
	}
}

func capabilities(t *testing.T, name string) kv.Capabilities {
	var s *kv.Store
	if name == "memory" {
		s = kv.New(memkv.New(memkv.Options{}))
	} else {
		url := storeURL(t, name)
		if name != "bolt" {
			url = url[:strings.LastIndexByte(url, '/')] + "/demo"
		}
		var err error
		if s, err = stores().Open(t.Context(), url); err != nil {
			t.Fatal(err)
		}
	}
	defer s.Close()
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s.Capabilities()
}

func show(v any) string {
	switch v {
	case true:
		return "yes"
	case false:
		return "no"
	}
	return fmt.Sprint(v)
}

var notes = strings.NewReplacer("¹", "", "²", "", "³", "", "⁴", "", "⁵", "", "⁶", "")

// cells are the columns of a row of a table, without marks of footnotes.
func cells(line string) []string {
	row := strings.Split(strings.Trim(line, "| "), "|")
	for i := range row {
		row[i] = strings.TrimSpace(notes.Replace(row[i]))
	}
	return row
}

func read(t *testing.T, name string) string {
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
