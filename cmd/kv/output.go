package main

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/polykv/kv"
)

// printable is s as it is, or quoted where it would break the line or do
// something to a terminal.
func printable(s string) string {
	odd := func(r rune) bool { return !unicode.IsPrint(r) }
	if utf8.ValidString(s) && !strings.ContainsFunc(s, odd) && !strings.HasPrefix(s, `"`) {
		return s
	}
	return strconv.Quote(s)
}

// jsonRecord is an entry, or an event, as a line of JSON. A value that is not
// UTF-8 stands in base64.
type jsonRecord struct {
	Kind     string     `json:"kind,omitempty"`
	Key      string     `json:"key,omitempty"`
	Value    *string    `json:"value,omitempty"`
	Base64   []byte     `json:"base64,omitempty"`
	Revision uint64     `json:"revision,omitempty"`
	Expires  *time.Time `json:"expires,omitempty"`
	Token    string     `json:"token,omitempty"`
}

func record(e kv.Entry[[]byte]) jsonRecord {
	r := jsonRecord{Key: e.Key, Revision: uint64(e.Revision)}
	switch {
	case e.IsDir():
	case utf8.Valid(e.Value):
		text := string(e.Value)
		r.Value = &text
	default:
		r.Base64 = e.Value
	}
	if !e.Expires.IsZero() {
		t := e.Expires.UTC()
		r.Expires = &t
	}
	return r
}

func event(ev kv.Event[[]byte]) jsonRecord {
	r := record(ev.Entry)
	r.Kind, r.Token = ev.Kind.String(), string(ev.Token)
	if ev.Key == "" || ev.Kind == kv.Deleted {
		r.Value = nil
	}
	return r
}

func printJSON(w io.Writer, r jsonRecord) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(r)
}

// printCapabilities prints one line for each field.
func printCapabilities(w io.Writer, caps kv.Capabilities) error {
	v := reflect.ValueOf(caps)
	for i := range v.NumField() {
		if _, err := fmt.Fprintf(w, "%-18s  %v\n", v.Type().Field(i).Name, v.Field(i)); err != nil {
			return err
		}
	}
	return nil
}
