package filter

import (
	"encoding/json"
	"math"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func readFile(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// schema is a JSON Schema of draft 2020-12, of which it knows the keywords that schema.json uses.
type schema struct {
	t       testing.TB
	root    map[string]any
	regexps map[string]*regexp.Regexp
}

func readSchema(t testing.TB) *schema {
	t.Helper()
	s := &schema{t: t, regexps: map[string]*regexp.Regexp{}}
	if err := json.Unmarshal([]byte(readFile(t, "schema.json")), &s.root); err != nil {
		t.Fatal(err)
	}
	s.compile(s.root)
	return s
}

// compile finds all patterns. They use nothing in which Go's and ECMAScript's syntax differ.
func (s *schema) compile(v any) {
	switch v := v.(type) {
	case map[string]any:
		if p, ok := v["pattern"].(string); ok {
			s.regexps[p] = regexp.MustCompile(p)
		}
		for _, x := range v {
			s.compile(x)
		}
	case []any:
		for _, x := range v {
			s.compile(x)
		}
	}
}

// takes reports whether the schema takes the value.
func (s *schema) takes(node, v any) bool {
	if all, ok := node.(bool); ok {
		return all
	}
	n := node.(map[string]any)
	object, isObject := v.(map[string]any)
	array, isArray := v.([]any)
	text, isText := v.(string)
	number, isNumber := v.(float64)
	for keyword, want := range n {
		ok := true
		switch keyword {
		case "$schema", "$defs", "title", "description", "default", "then", "else":
		case "$ref":
			ok = s.takes(s.root["$defs"].(map[string]any)[strings.TrimPrefix(want.(string), "#/$defs/")], v)
		case "type":
			_, isBool := v.(bool)
			ok = map[string]bool{"object": isObject, "array": isArray, "string": isText, "boolean": isBool,
				"integer": isNumber && number == math.Trunc(number)}[want.(string)]
		case "properties":
			for key, sub := range want.(map[string]any) {
				if value, there := object[key]; there {
					ok = ok && s.takes(sub, value)
				}
			}
		case "additionalProperties":
			for key := range object {
				_, known := n["properties"].(map[string]any)[key]
				ok = ok && (known || want == true)
			}
		case "required":
			for _, key := range want.([]any) {
				_, there := object[key.(string)]
				ok = ok && (there || !isObject)
			}
		case "dependentRequired":
			for key, others := range want.(map[string]any) {
				for _, other := range others.([]any) {
					_, there := object[key]
					_, otherThere := object[other.(string)]
					ok = ok && (!there || otherThere)
				}
			}
		case "items":
			for _, item := range array {
				ok = ok && s.takes(want, item)
			}
		case "minItems":
			ok = !isArray || float64(len(array)) >= want.(float64)
		case "maxItems":
			ok = !isArray || float64(len(array)) <= want.(float64)
		case "uniqueItems":
			for i := range array {
				ok = ok && !slices.ContainsFunc(array[:i], func(x any) bool { return reflect.DeepEqual(x, array[i]) })
			}
		case "pattern":
			ok = !isText || s.regexps[want.(string)].MatchString(text)
		case "minimum":
			ok = !isNumber || number >= want.(float64)
		case "maximum":
			ok = !isNumber || number <= want.(float64)
		case "enum":
			ok = slices.Contains(want.([]any), v)
		case "const":
			ok = v == want
		case "not":
			ok = !s.takes(want, v)
		case "allOf":
			for _, sub := range want.([]any) {
				ok = ok && s.takes(sub, v)
			}
		case "if":
			branch := "else"
			if s.takes(want, v) {
				branch = "then"
			}
			if sub, there := n[branch]; there {
				ok = s.takes(sub, v)
			}
		default:
			s.t.Fatalf("schema.json uses %q, which the test does not know", keyword)
		}
		if !ok {
			return false
		}
	}
	return true
}

// takesText reports whether text is JSON that the schema takes. No text is an empty object.
func (s *schema) takesText(text string) bool {
	if strings.Trim(text, " \t\r\n") == "" {
		return true
	}
	var v any
	return json.Unmarshal([]byte(text), &v) == nil && s.takes(s.root, v)
}

func TestSchemaAndParserAgree(t *testing.T) {
	s := readSchema(t)
	for _, tt := range acceptedConfigs() {
		if !s.takesText(tt.text) {
			t.Errorf("%s: the schema refuses what the parser takes", tt.name)
		}
	}
	for _, tt := range refusedConfigs() {
		if got := s.takesText(tt.text); got != tt.beyondSchema {
			t.Errorf("%s: the schema takes it: %v, want %v", tt.name, got, tt.beyondSchema)
		}
	}
}

// configKeys returns the keys that the parser knows, as rules[].name, by what it says about an unknown one.
func configKeys(t *testing.T) (keys []string) {
	t.Helper()
	for prefix, text := range map[string]string{
		"": `{"~~~~~~~~~~~~~~~~~~~~":1}`, "rules[].": `{"rules":[{"~~~~~~~~~~~~~~~~~~~~":1}]}`, "metadata.": `{"metadata":{"~~~~~~~~~~~~~~~~~~~~":1}}`,
	} {
		_, err := ParseConfig([]byte(text))
		_, known, found := strings.Cut(err.Error(), "known are ")
		if !found {
			t.Fatal(err)
		}
		for _, key := range strings.Split(known, ", ") {
			if key = strings.Trim(key, `"`); prefix != "" || key != "rules" && key != "metadata" {
				keys = append(keys, prefix+key)
			}
		}
	}
	slices.Sort(keys)
	return keys
}

func TestEachKeyIsInTheSchemaAndInTheReference(t *testing.T) {
	want := configKeys(t)

	var inSchema []string
	s := readSchema(t)
	for key, sub := range s.root["properties"].(map[string]any) {
		properties := map[string]any{"": nil}
		prefix := key
		switch key {
		case "metadata":
			properties, prefix = sub.(map[string]any)["properties"].(map[string]any), "metadata."
		case "rules":
			properties, prefix = s.root["$defs"].(map[string]any)["rule"].(map[string]any)["properties"].(map[string]any), "rules[]."
		}
		for name := range properties {
			inSchema = append(inSchema, prefix+name)
		}
	}
	slices.Sort(inSchema)
	if diff := cmp.Diff(want, inSchema); diff != "" {
		t.Errorf("keys of schema.json (-parser +schema):\n%s", diff)
	}

	_, table, _ := strings.Cut(readFile(t, "doc.go"), "# Configuration")
	table, _, _ = strings.Cut(table, "# Reasons")
	var inDoc []string
	for _, m := range regexp.MustCompile(`(?m)^//\t((?:rules\[\]\.|metadata\.)?[a-z_]+)  +\S`).FindAllStringSubmatch(table, -1) {
		inDoc = append(inDoc, m[1])
	}
	slices.Sort(inDoc)
	if diff := cmp.Diff(want, inDoc); diff != "" {
		t.Errorf("keys of the table in doc.go (-parser +table):\n%s", diff)
	}
}

// The reference names each reason, in the words of the code.
func TestEachReasonIsInTheReference(t *testing.T) {
	want := regexp.MustCompile(`(?m)^\t?(?:const )?\w+ +Reason = "(\w+)"$`).FindAllStringSubmatch(readFile(t, "upgrade.go"), -1)
	if len(want) < 18 {
		t.Fatalf("only %d reasons found in upgrade.go", len(want))
	}
	_, doc, _ := strings.Cut(readFile(t, "doc.go"), "# Reasons")
	for _, m := range want {
		if !regexp.MustCompile(`(?m)^//\t` + m[1] + `  +\S`).MatchString(doc) {
			t.Errorf("doc.go has no line for the reason %s", m[1])
		}
	}
}
