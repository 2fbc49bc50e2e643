package codec

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
)

// describe tells as much of a cause as can be told without quoting the value. Most libraries do quote it:
// json.SyntaxError a character, json.UnmarshalTypeError a number, time's errors all of the text.
func describe(err error) string {
	if err == nil {
		return "unknown cause"
	}
	//nolint:errorlint // err itself, not one that it wraps: each is described in its turn
	if own, ok := err.(*failure); ok {
		return own.doing + ": " + describe(own.err)
	}
	// Causes are looked for with errors.As, so a type's own UnmarshalJSON may wrap one.
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Sprintf("syntax error after %d bytes", syntax.Offset)
	}
	var mismatch *json.UnmarshalTypeError
	if errors.As(err, &mismatch) {
		return fmt.Sprintf("%s does not fit %s after %d bytes", jsonKind(mismatch.Value), typeName(mismatch.Type), mismatch.Offset)
	}
	var unsupported *json.UnsupportedTypeError
	if errors.As(err, &unsupported) {
		return "unsupported type " + typeName(unsupported.Type)
	}
	var format formatError
	if errors.As(err, &format) {
		return format.Error()
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return string(errTruncated)
	}
	return fmt.Sprintf("error of type %T", err)
}

// jsonKind returns the kind that a json.UnmarshalTypeError's description of a value begins with: "number 42" is one.
func jsonKind(description string) string {
	kind, _, _ := strings.Cut(description, " ")
	switch kind {
	case "bool", "number", "string", "array", "object":
		return kind
	}
	return "value"
}

func typeName(t reflect.Type) string {
	if t == nil {
		return "unknown type"
	}
	return t.String()
}

// formatError is a defect that we find ourselves.
type formatError string

func (e formatError) Error() string { return string(e) }

const (
	errEmpty     formatError = "value is empty"
	errTruncated formatError = "value ends too early"
	errTrailing  formatError = "value is followed by other data"
	errDepth     formatError = "value is nested too deeply"
	errUnused    formatError = "value contains a byte that the format does not define"
	errShape     formatError = "value has a shape that the type cannot hold"
)
