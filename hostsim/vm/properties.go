package vm

import (
	"strings"

	"switchyard/hostsim/abi"
)

// Properties (Proxy-Wasm 0.2.1, "Properties"). The host answers what is the
// plugin's own; all else is the stream's, or, for root contexts, the
// configuration's.

func (c *hostContext) property(path string) ([]byte, abi.Status) {
	if path == "" {
		return nil, abi.StatusSerializationFailure
	}
	if p := c.pluginOf(); p != nil {
		switch strings.TrimSuffix(path, "\x00") {
		case "plugin_name":
			return []byte(p.config.Name), abi.StatusOK
		case "plugin_root_id":
			return []byte(p.config.RootID), abi.StatusOK
		case "plugin_vm_id":
			return []byte(p.config.VMID), abi.StatusOK
		}
		if c.stream == nil && p.config.Property != nil {
			return p.config.Property(path)
		}
	}
	if c.stream == nil {
		return nil, abi.StatusNotFound
	}
	return c.stream.Property(path)
}

func proxyGetProperty(v *instance, stack []uint64) abi.Status {
	path, ok := v.readString(stack[0], stack[1])
	if !ok {
		return abi.StatusInvalidMemoryAccess
	}
	value, status := v.context().property(path)
	if status != abi.StatusOK {
		return status
	}
	return v.giveBytes(value, stack[2], stack[3])
}

func proxySetProperty(v *instance, stack []uint64) abi.Status {
	path, ok1 := v.readString(stack[0], stack[1])
	value, ok2 := v.read(stack[2], stack[3])
	if !ok1 || !ok2 {
		return abi.StatusInvalidMemoryAccess
	}
	c := v.context()
	if c.stream == nil {
		return abi.StatusNotFound
	}
	if !v.afford(len(path) + len(value)) {
		return abi.StatusInternalFailure
	}
	return c.stream.SetProperty(path, value)
}
