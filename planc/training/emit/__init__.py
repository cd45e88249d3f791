"""Writing training graphs: the builder, the forms of operators for each device, the opset."""
