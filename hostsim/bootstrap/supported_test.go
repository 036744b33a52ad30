package bootstrap

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

func TestTheTableNamesOnlyWhatExists(t *testing.T) {
	for message, fields := range supported {
		md := findMessage(t, string(message))
		if md == nil {
			continue
		}
		names := strings.Fields(fields)
		for i, name := range names {
			fd := md.Fields().ByName(protoreflect.Name(name))
			if fd == nil {
				t.Errorf("%s has no field %s", message, name)
				continue
			}
			if slices.Contains(names[:i], name) {
				t.Errorf("%s lists %s twice", message, name)
			}
			if fd.IsMap() {
				fd = fd.MapValue()
			}
			if sub := fd.Message(); sub != nil && sub.ParentFile().Package() != "google.protobuf" {
				if _, ok := supported[sub.FullName()]; !ok {
					t.Errorf("%s.%s is simulated, but nothing says what of %s is", message, name, sub.FullName())
				}
			}
		}
	}
}

func TestTheLimitsNameOnlyWhatExists(t *testing.T) {
	for field, lim := range limits {
		md := findMessage(t, string(field.Parent()))
		if md == nil {
			continue
		}
		fd := md.Fields().ByName(field.Name())
		if fd == nil {
			t.Errorf("there is no field %s", field)
			continue
		}
		if !slices.Contains(strings.Fields(supported[field.Parent()]), string(field.Name())) {
			t.Errorf("%s has limits, but is not simulated", field)
		}
		for _, value := range strings.Fields(lim.values) {
			if ed := fd.Enum(); ed != nil && ed.Values().ByName(protoreflect.Name(value)) == nil {
				t.Errorf("%s has no value %s", field, value)
			}
		}
		for _, name := range strings.Fields(lim.fields) {
			if name == "-" {
				continue
			}
			if fd.Message() == nil || fd.Message().Fields().ByName(protoreflect.Name(name)) == nil {
				t.Errorf("what is in %s has no field %s", field, name)
			}
		}
		for _, name := range strings.Fields(lim.types) {
			if name == "*" {
				continue
			}
			if _, ok := supported[protoreflect.FullName(name)]; !ok || findMessage(t, name) == nil {
				t.Errorf("%s takes %s, but nothing says what of it is simulated", field, name)
			}
		}
		if lim.max > 0 && !fd.IsList() {
			t.Errorf("%s has a maximum, but is not a list", field)
		}
	}
}

func TestEveryAnyThatIsSimulatedSaysWhatMayStandInIt(t *testing.T) {
	for message, fields := range supported {
		md := findMessage(t, string(message))
		for _, name := range strings.Fields(fields) {
			fd := md.Fields().ByName(protoreflect.Name(name))
			if fd == nil || fd.Message() == nil || fd.Message().FullName() != "google.protobuf.Any" {
				continue
			}
			if limits[fd.FullName()].types == "" {
				t.Errorf("%s is simulated, but no limit says which types", fd.FullName())
			}
		}
	}
}

func TestWhatIsSaidNotToBeLinkedIsNot(t *testing.T) {
	for _, name := range notLinked {
		if _, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(name)); err == nil {
			t.Errorf("%s is linked, take it out of notLinked", name)
		}
	}
}

func findMessage(t *testing.T, name string) protoreflect.MessageDescriptor {
	t.Helper()
	mt, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(name))
	if err != nil {
		t.Errorf("there is no message %s", name)
		return nil
	}
	return mt.Descriptor()
}

func TestWhatMayBeIgnoredExistsAndIsNotSimulated(t *testing.T) {
	for field, why := range ignorable {
		md := findMessage(t, string(field.Parent()))
		if md == nil {
			continue
		}
		if md.Fields().ByName(field.Name()) == nil {
			t.Errorf("there is no field %s", field)
		}
		if slices.Contains(strings.Fields(supported[field.Parent()]), string(field.Name())) {
			t.Errorf("%s is simulated, take it out of ignorable", field)
		}
		if why == "" {
			t.Errorf("nothing says what %s is for", field)
		}
	}
}

func TestTheListInTheDocumentsIsThatOfTheCode(t *testing.T) {
	const file = "../SUPPORTED.md"
	want := supportedDocument()
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("hostsim/SUPPORTED.md is not what the code says, run go generate ./hostsim/bootstrap")
	}
}

// supportedDocument is the table of what is simulated, to read.
func supportedDocument() string {
	var out strings.Builder
	out.WriteString(`# What hostsim simulates

Written by ` + "`go generate ./hostsim/bootstrap`" + ` from the tables in hostsim/bootstrap; a test compares. Every configuration message of
Envoy 1.40 is known. A field that is set and not listed here is refused with its line.

`)
	fmt.Fprintf(&out, "## Messages (%d) and their fields\n\n| message | fields |\n|---|---|\n", len(supported))
	for _, name := range slices.Sorted(maps.Keys(supported)) {
		fields := strings.Fields(supported[name])
		slices.Sort(fields)
		for i, field := range fields {
			fields[i] = field + limitText(limits[protoreflect.FullName(string(name)+"."+field)])
		}
		fmt.Fprintf(&out, "| %s | %s |\n", strings.TrimPrefix(string(name), "envoy."), strings.Join(fields, ", "))
	}
	out.WriteString(`
## What --ignore-unsupported passes over

What only reports, uses the machine's resources in another way, or is about Envoy itself; and access loggers of every other
kind. Each is one warning. What chooses a host, lets a request in or out, changes a message, or can be read by a plugin or an
expression is refused all the same.

| field | it |
|---|---|
`)
	for _, name := range slices.Sorted(maps.Keys(ignorable)) {
		fmt.Fprintf(&out, "| %s | %s |\n", strings.TrimPrefix(string(name), "envoy."), ignorable[name])
	}
	out.WriteString("\n`stats_config` is read; the labels that it describes show in /stats/prometheus only, which is not there yet.\n")
	out.WriteString("`respect_dns_ttl` changes nothing: the system's resolver does not say how long an answer is good for.\n")
	return out.String()
}

func limitText(l limit) string {
	short := func(names string) string {
		words := strings.Fields(names)
		for i, w := range words {
			words[i] = w[strings.LastIndex(w, ".")+1:]
		}
		return strings.Join(words, ", ")
	}
	var parts []string
	switch {
	case l.types == "*":
		parts = append(parts, "any message")
	case l.types != "":
		parts = append(parts, short(l.types))
	}
	switch {
	case l.fields == "-":
		parts = append(parts, "empty")
	case l.fields != "":
		parts = append(parts, "with "+strings.Join(strings.Fields(l.fields), ", "))
	}
	if l.values != "" {
		parts = append(parts, strings.Join(strings.Fields(l.values), ", "))
	}
	if l.max > 0 {
		parts = append(parts, fmt.Sprintf("at most %d", l.max))
	}
	if parts == nil {
		return ""
	}
	return " (" + strings.Join(parts, "; ") + ")"
}
